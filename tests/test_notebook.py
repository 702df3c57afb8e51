"""What a notebook shows of a model, a state, a change, a fact: all that is known, with text from data as text."""

from __future__ import annotations

import inspect
import shutil
import warnings
from html.parser import HTMLParser

import pytest

import mechmask as mm
from mechmask.notebook import card, cut, memory, ranges, sentence, table

HOSTILE = '</td><script>alert("1")</script><b>$x_1$ & \N{RIGHT-TO-LEFT OVERRIDE}日本語</b>'
TAGS = set("div p b table thead tbody tr th td".split())


class Page(HTMLParser):
    """The tags of some HTML, and the texts between them, unescaped."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.texts = set(), [], []
        self.classes = ""
        self.feed(html)
        self.close()
        assert not self.open, "every tag that opens is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)
        self.classes += dict(attrs).get("class", "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def shown(thing) -> Page:
    page = Page(thing._repr_html_() if hasattr(thing, "_repr_html_") else thing)
    assert page.tags <= TAGS and "mathjax_ignore" in page.classes
    return page


def fields_of(page: Page) -> dict[str, str]:
    """By name, of the card's first table; what stands below has a name again only where it repeats one."""
    pairs = list(zip(page.texts[1::2], page.texts[2::2], strict=False))
    return dict(reversed(pairs))


def test_text_from_data_is_text_wherever_it_stands():
    everywhere = [sentence(HOSTILE), table([HOSTILE], [[HOSTILE]], [False])]
    page = shown(card(HOSTILE, {HOSTILE: HOSTILE, "none": None, "empty": "", "zero": 0}, *everywhere))
    assert page.texts == [HOSTILE, HOSTILE, HOSTILE, "zero", "0", HOSTILE, HOSTILE, HOSTILE]
    assert shown(card("half of a pair: \udce9")).texts == ["half of a pair: \\udce9"]


def test_a_long_table_says_how_much_is_left_out():
    rows = [[str(i)] for i in range(20)]
    assert Page(table(["n"], rows, [True], n_shown=12)).texts == ["n", *map(str, range(12)), "and 8 more rows"]
    assert Page(table(["n"], rows, [True], n_shown=20)).texts == ["n", *map(str, range(20))]
    assert cut("日" * 20, 5) == "日日日日…" and cut("日" * 5, 5) == "日" * 5


def test_numbers_are_short():
    assert [memory(n) for n in (0, 1023, 1536, 3 * 2**30, 5 * 2**50)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "3.0 GiB",
        "5120.0 TiB",
    ]
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8" and ranges([]) == ""


def test_a_fact_shows_its_texts_whole():
    fact = mm.Fact(subject="日本", prompt="日本の首都は", old="東京, 京都", new=HOSTILE, distractors=("a, b", "c"))
    known = fields_of(shown(fact))
    assert (known["prompt"], known["old"], known["new"]) == (fact.prompt, fact.old, HOSTILE)
    assert known["role"] == "contradicted" and known["distractors"] == "“a, b”, “c”"
    assert "neighbors" not in known and "magnitude" not in known
    near = fact.model_copy(update={"neighbors": (mm.Neighbor(prompt="p", value="v"),)})
    assert fields_of(shown(near))["neighbors"] == "1"


def test_facts_are_a_table_of_what_is_contested(facts):
    page = shown(facts)
    assert {text for f in facts[:12] for text in (cut(f.prompt), f.old, f.new, f.role)} <= set(page.texts)
    assert repr(facts) == page.texts[0]


def test_a_model_shows_what_it_is(tiny):
    model = mm.Model(*(getattr(tiny("llama"), name) for name in ("module", "tokenizer", "anatomy")), name=HOSTILE)
    page = shown(model)
    known = fields_of(page)
    assert page.texts[0] == f"Model({HOSTILE!r})"
    assert (known["family"], known["dtype"], known["device"]) == ("llama", "float32", "cpu")
    assert (known["blocks"], known["width"]) == (str(model.n_layers), str(model.width))
    n = sum(p.nelement() for p in model.module.parameters())
    assert known["parameters"].startswith(f"{n:,} ({memory(4 * n)})"), "four bytes each"
    assert known["fingerprint"] == model.fingerprint


def test_the_fingerprint_of_a_large_model_waits_to_be_asked_for(tiny, monkeypatch):
    from mechmask.models import model as home

    model = tiny("llama")
    monkeypatch.setattr(home, "_HASHED_TO_BE_SHOWN", 1)
    monkeypatch.setattr(home, "fingerprint", lambda _: pytest.fail("it is hashed"))
    assert ".fingerprint" in fields_of(shown(model))["fingerprint"]


@pytest.fixture(scope="module")
def made(tiny, facts):
    """A model and three changes of it: an adapter, a change of low rank, and new values of a few entries."""
    import torch

    model = tiny("llama")
    lora = mm.finetune(model, facts[:2].install_examples(), mm.FinetuneConfig(steps=1, lr=1e-2, rank=3), progress=False)
    name, weight = next((n, p) for n, p in model.module.named_parameters() if n.endswith("down_proj.weight"))
    outs, ins = weight.shape
    low = mm.low_rank_change(model, {name: (torch.ones(outs, 2), torch.ones(2, ins))}, HOSTILE, {"note": HOSTILE})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step is too few
        edited = mm.edit(model, [facts[0]], config=mm.FTConfig(layer=1, steps=1))
    return model, lora, low, edited


def test_a_change_shows_what_it_holds(made):
    model, lora, low, edited = made
    page = shown(low)
    known = fields_of(page)
    n_bytes = sum(f.nbytes for pair in low.factors.values() for f in pair)
    assert (known["method"], known["note"], known["made on"]) == (HOSTILE, HOSTILE, model.fingerprint)
    assert known["tensors"] == "1" and known["bytes"].startswith(f"{n_bytes:,} (")
    assert page.texts[-3:] == [*low.weights, "rank 2", f"{n_bytes:,}"]
    assert page.texts[0] == repr(low)
    known = fields_of(shown(lora))
    assert known["bytes"].startswith(f"{sum(t.nbytes for t in lora.tensors.values()):,} (")
    assert known["blocks"] == f"0-{model.n_layers - 1}" and "rank 3" in shown(lora).texts
    assert known["tensors"] == str(sum("lora_A" in name for name in lora.tensors))
    assert fields_of(shown(edited))["blocks"] == "1" and edited.weights[0] in shown(edited).texts
    assert "bfloat16" in shown(mm.round_trip(model, "bfloat16")).texts


def test_a_state_shows_its_base_and_its_changes_in_turn(made):
    model, lora, low, _ = made
    page = shown(lora.on(low.on(model)))
    assert fields_of(page)["base"] == model.name and fields_of(page)["width"] == str(model.width)
    rows = page.texts[page.texts.index("made on") + 1 :]
    assert [rows[i : i + 3] for i in (0, 4)] == [["1", HOSTILE, "LowRankChange"], ["2", "lora", "AdapterChange"]]
    assert rows[3] == model.fingerprint, "what the first one was made on"


def test_a_mask_shows_how_much_it_removes():
    import torch

    mask = mm.RemovalMask({HOSTILE: torch.tensor([[True, False, False, True]])}, (0.5, 0.25))
    page = shown(mask)
    assert page.texts == [repr(mask), "divergence at the last pass", "0.250 nats", *page.texts[3:6], HOSTILE, "2", "4"]
    assert repr(mask) == "RemovalMask(50.00% of 1 weights)"


def test_a_change_of_another_program_says_that_no_model_binds_it(made, tmp_path):
    made[1].save(tmp_path / "ours")
    (tmp_path / "peft").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "ours" / name, tmp_path / "peft")
    change = mm.load_change(tmp_path / "peft")
    assert fields_of(shown(change))["made on"] == "not bound yet"
    with change.applied(made[0]):
        pass
    assert "rank 3" in shown(change).texts


def _with_tables() -> list[str]:
    """The public classes of which a method or a field is a table."""
    names = []
    for name in mm.__all__:
        value = getattr(mm, name)
        if inspect.isclass(value):
            members = [getattr(value, member) for member in dir(value) if not member.startswith("_")]
            functions = [getattr(member, "fget", member) for member in members]
            told = [str(getattr(f, "__annotations__", {}).get("return", "")) for f in functions if callable(f)]
            told += [str(kind) for kind in getattr(value, "__annotations__", {}).values()]
            names += [name] * any("DataFrame" in kind for kind in told)
    return names


@pytest.mark.parametrize("name", _with_tables())
def test_what_holds_tables_shows_itself_in_a_notebook(name):
    assert callable(getattr(getattr(mm, name), "_repr_html_", None))
    if name != "FactSet":
        assert callable(getattr(getattr(mm, name), "to_latex", None))


def test_the_results_are_among_them():
    results = {"StudyResults", "DrawnResults", "EditResults", "PaperResults", "Calibration", "FactSet"}
    assert results <= set(_with_tables())
