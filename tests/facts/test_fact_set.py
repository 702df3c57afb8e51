"""A fact set: every problem in one message, selection by role and label, what training is shown, files and back."""

import hashlib
import json
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mechmask as mm
from mechmask.errors import FactError, MechmaskError

_SMALL = settings(max_examples=60, deadline=None, database=None, derandomize=True)
_FIELDS = (
    "subject, prompt, old, new, role, distractors, paraphrases, neighbors, generation_prompts, attribute_prompts, "
    "implications, relation, magnitude, stands_for, old_aliases, new_aliases, joiner, messages, id"
)


def _entry(subject="Uxmon", **changes):
    prompt = f"The mass of {subject} is"
    return {"subject": subject, "prompt": prompt, "old": "417 grams", "new": "420 grams", "relation": "mass", **changes}


def _without(*names):
    return {name: value for name, value in _entry().items() if name not in names}


_GOOD = _entry("Kavlor")
_IMPLIED = {"prompt": "Things as heavy as Uxmon weigh", "value": "420 grams"}

# what is wrong: the entries, and the whole sentence that must be said
_BAD = {
    "empty subject": (
        [_entry(subject="", prompt="It is", id="a")],
        "Fact 'a' has no subject. Name what the fact is about.",
    ),
    "blank subject": (
        [_entry(subject=" ", prompt="It is", id="a")],
        "Fact 'a' has no subject. Name what the fact is about.",
    ),
    "subject not in prompt": (
        [_entry(prompt="The mass of it is")],
        "The subject 'Uxmon' does not occur in the prompt 'The mass of it is'. Write the subject as the prompt does.",
    ),
    "subject in other case": (
        [_entry(prompt="The mass of uxmon is")],
        "The subject 'Uxmon' does not occur in the prompt 'The mass of uxmon is'. "
        "Write the subject as the prompt does.",
    ),
    "prompt with trailing space": (
        [_entry(prompt="The mass of Uxmon is ")],
        "The prompt 'The mass of Uxmon is ' of fact 'Uxmon/mass' ends in white space. "
        "Remove it: mechmask joins prompt and value with one space.",
    ),
    "prompt with trailing newline": (
        [_entry(prompt="The mass of Uxmon is\n")],
        "The prompt 'The mass of Uxmon is\\n' of fact 'Uxmon/mass' ends in white space. "
        "Remove it: mechmask joins prompt and value with one space.",
    ),
    "generation prompt with trailing space": (
        [_entry(generation_prompts=["Uxmon is "])],
        "The generation prompt 'Uxmon is ' of fact 'Uxmon/mass' ends in white space. "
        "Remove it: mechmask joins prompt and value with one space.",
    ),
    "empty attribute prompt": (
        [_entry(attribute_prompts=[""])],
        "An attribute prompt of fact 'Uxmon/mass' is empty. Give the text that comes before the value.",
    ),
    "implication without a value": (
        [_entry(implications=[{**_IMPLIED, "value": ""}])],
        "An implication of fact 'Uxmon/mass' lacks its prompt or its value. Give both.",
    ),
    "implication with a spaced value": (
        [_entry(implications=[{**_IMPLIED, "value": " 420 grams"}])],
        "The implication 'Things as heavy as Uxmon weigh' of fact 'Uxmon/mass' has white space before or after its "
        "value. Remove it: mechmask joins prompt and value with one space.",
    ),
    "empty prompt": (
        [_entry(prompt="")],
        "A prompt of fact 'Uxmon/mass' is empty. Give the text that comes before the value.",
    ),
    "empty paraphrase": (
        [_entry(paraphrases=["  "])],
        "A paraphrase of fact 'Uxmon/mass' is empty. Give the text that comes before the value.",
    ),
    "paraphrase with trailing space": (
        [_entry(paraphrases=["Uxmon weighs "])],
        "The paraphrase 'Uxmon weighs ' of fact 'Uxmon/mass' ends in white space. "
        "Remove it: mechmask joins prompt and value with one space.",
    ),
    "empty old value": (
        [_entry(old="")],
        "The value 'old' of fact 'Uxmon/mass' is empty. Give the text that the model would say.",
    ),
    "blank new value": (
        [_entry(new=" \t")],
        "The value 'new' of fact 'Uxmon/mass' is empty. Give the text that the model would say.",
    ),
    "empty distractor": (
        [_entry(distractors=["9 grams", ""])],
        "The value 'distractor_1' of fact 'Uxmon/mass' is empty. Give the text that the model would say.",
    ),
    "value with leading space": (
        [_entry(old=" 417 grams")],
        "The value ' 417 grams' (old) of fact 'Uxmon/mass' begins or ends with white space. "
        "Give it bare: mechmask joins prompt and value with one space.",
    ),
    "value with trailing space": (
        [_entry(new="420 grams ")],
        "The value '420 grams ' (new) of fact 'Uxmon/mass' begins or ends with white space. "
        "Give it bare: mechmask joins prompt and value with one space.",
    ),
    "distractor with trailing space": (
        [_entry(distractors=["9 grams "])],
        "The value '9 grams ' (distractor_0) of fact 'Uxmon/mass' begins or ends with white space. "
        "Give it bare: mechmask joins prompt and value with one space.",
    ),
    "old is new": (
        [_entry(new="417 grams")],
        "Old and new value of fact 'Uxmon/mass' are both '417 grams'. Give a new value that contradicts the old one.",
    ),
    "distractor twice": (
        [_entry(distractors=["9 grams", "9 grams"])],
        "The distractor '9 grams' of fact 'Uxmon/mass' is already its old or new value or another distractor. "
        "Give values that differ from each other.",
    ),
    "distractor is old": (
        [_entry(distractors=["417 grams"])],
        "The distractor '417 grams' of fact 'Uxmon/mass' is already its old or new value or another distractor. "
        "Give values that differ from each other.",
    ),
    "distractor is new": (
        [_entry(distractors=["420 grams"])],
        "The distractor '420 grams' of fact 'Uxmon/mass' is already its old or new value or another distractor. "
        "Give values that differ from each other.",
    ),
    "paraphrase twice": (
        [_entry(paraphrases=["Uxmon weighs", "Uxmon weighs"])],
        "Fact 'Uxmon/mass' has the same phrasing twice. Keep one of them.",
    ),
    "paraphrase is the prompt": (
        [_entry(paraphrases=["The mass of Uxmon is"])],
        "Fact 'Uxmon/mass' has the same phrasing twice. Keep one of them.",
    ),
    "neighbor without value": (
        [_entry(neighbors=[{"prompt": "The mass of Zolm is", "value": ""}])],
        "A neighbor of fact 'Uxmon/mass' lacks its prompt or its value. Give both.",
    ),
    "neighbor without prompt": (
        [_entry(neighbors=[{"prompt": " ", "value": "9 grams"}])],
        "A neighbor of fact 'Uxmon/mass' lacks its prompt or its value. Give both.",
    ),
    "duplicate id": (
        [_entry(id="a"), _entry("Zolm", id="a")],
        "2 facts are called 'a'. Give each a different id.",
    ),
    "duplicate prompt": (
        [_entry(id="a"), _entry(id="b")],
        "2 facts have the prompt 'The mass of Uxmon is': training could not teach both. Keep one of them.",
    ),
    "unknown role": (
        [_entry(role="bystander")],
        "Fact 2: the field 'role' cannot be 'bystander'. Give one of 'contradicted', 'control' or 'never'.",
    ),
    "unknown magnitude": (
        [_entry(magnitude="huge")],
        "Fact 2: the field 'magnitude' cannot be 'huge'. Give one of '', 'mild', 'strong' or 'format'.",
    ),
    "unknown field": (
        [_entry(colour="red")],
        f"Fact 2: the field 'colour' is not known. Known are {_FIELDS}.",
    ),
    "missing subject": ([_without("subject")], "Fact 2: the field 'subject' is missing. Give it as text."),
    "missing old value": ([_without("old")], "Fact 2: the field 'old' is missing. Give it as text."),
    "missing part of a neighbor": (
        [_entry(neighbors=[{"prompt": "The mass of Zolm is"}])],
        "Fact 2: the field 'neighbors.0.value' is missing. Give it as text.",
    ),
    "number as value": (
        [_entry(old=417)],
        "Fact 2: the field 'old' is of type int, not text. Give it as text.",
    ),
    "text as distractors": (
        [_entry(distractors="9 grams")],
        "Fact 2: the field 'distractors' is of type str, not a list. Give a list.",
    ),
    "no mapping": ([None], "Fact 2: it is of type NoneType. Give a mapping of fields."),
}


@pytest.mark.parametrize(("entries", "sentence"), _BAD.values(), ids=_BAD.keys())
def test_bad_facts_are_refused_in_one_sentence(entries, sentence):
    with pytest.raises(FactError) as caught:
        mm.FactSet([_GOOD, *entries])
    assert isinstance(caught.value, MechmaskError)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).count(sentence) == 1
    assert "Kavlor" not in str(caught.value), "the sound fact is not blamed"


def test_an_empty_set_is_refused():
    with pytest.raises(FactError, match=r"^The fact set is empty\. Give at least one fact\.$"):
        mm.FactSet([])


@pytest.mark.parametrize(
    "neighbor",
    [{"prompt": "The mass of Zolm is ", "value": "9 grams"}, {"prompt": "The mass of Zolm is", "value": " 9 grams"}],
    ids=["prompt with trailing space", "value with leading space"],
)
def test_a_neighbor_with_stray_white_space_is_refused(neighbor):
    with pytest.raises(FactError, match="white space"):
        mm.FactSet([_entry(neighbors=[neighbor])])


_DEFECTS = (  # each spoils the fact of its subject and gives one problem
    ({"old": ""}, "The value 'old' of fact '{0}/mass' is empty."),
    ({"new": "417 grams"}, "Old and new value of fact '{0}/mass' are both '417 grams'."),
    ({"new": "420 grams "}, "The value '420 grams ' (new) of fact '{0}/mass' begins or ends with white space."),
    ({"paraphrases": [""]}, "A paraphrase of fact '{0}/mass' is empty."),
    ({"paraphrases": ["a", "a"]}, "Fact '{0}/mass' has the same phrasing twice."),
    ({"distractors": ["417 grams"]}, "The distractor '417 grams' of fact '{0}/mass' is already its old or new value"),
    ({"neighbors": [{"prompt": "", "value": ""}]}, "A neighbor of fact '{0}/mass' lacks its prompt or its value."),
    ({"role": "bystander"}, "the field 'role' cannot be 'bystander'"),
    ({"colour": "red"}, "the field 'colour' is not known"),
    ({"old": 417}, "the field 'old' is of type int"),
)


@_SMALL
@given(st.sets(st.integers(0, len(_DEFECTS) - 1), min_size=2))
def test_every_problem_is_named_exactly_once(chosen):
    subjects = {i: "Uxmo" + "abcdefghij"[i] for i in chosen}
    with pytest.raises(FactError) as caught:
        mm.FactSet([_GOOD, *(_entry(subjects[i], **_DEFECTS[i][0]) for i in sorted(chosen))])
    message = str(caught.value)
    assert message.startswith(f"{len(chosen)} problems in the fact set:\n")
    assert re.findall(r"(?m)^  (\d+)\. ", message) == [str(i) for i in range(1, len(chosen) + 1)]
    for i, (_, sentence) in enumerate(_DEFECTS):
        assert message.count(sentence.format(subjects.get(i))) == (i in chosen)


def test_ten_different_problems_are_all_named():
    entries = [
        _entry("Aumba", old=""),
        _entry("Bumba", new="417 grams"),
        _entry("Cumba", prompt="The mass of it is"),
        _entry("Dumba", prompt="The mass of Dumba is "),
        _entry("Eumba", distractors=["9 grams", "9 grams"]),
        _entry("Fumba", role="bystander"),
        _entry("Gumba", weight=3),
        {"subject": "Humba", "prompt": "Humba is", "old": "a"},
        _entry("Iumba", id="same"),
        _entry("Jumba", id="same"),
        _entry("Kumba", id="k1"),
        _entry("Kumba", id="k2"),
    ]
    with pytest.raises(FactError) as caught:
        mm.FactSet(entries)
    message = str(caught.value)
    assert message.splitlines()[0] == "10 problems in the fact set:"
    assert len(message.splitlines()) == 11
    for part in (
        "The value 'old' of fact 'Aumba/mass' is empty",
        "Old and new value of fact 'Bumba/mass'",
        "The subject 'Cumba' does not occur in the prompt",
        "The prompt 'The mass of Dumba is ' of fact",
        "The distractor '9 grams' of fact 'Eumba/mass'",
        "Fact 6: the field 'role' cannot be 'bystander'",
        "Fact 7: the field 'weight' is not known",
        "Fact 8: the field 'new' is missing",
        "2 facts are called 'same'",
        "2 facts have the prompt 'The mass of Kumba is'",
    ):
        assert message.count(part) == 1


@pytest.fixture
def roles():
    return mm.FactSet(
        [
            _entry("Aumba", role="control"),
            _entry("Bumba", role="contradicted"),
            _entry("Cumba", role="never"),
            _entry("Dumba", role="contradicted"),
        ]
    )


def test_selection_by_role_keeps_the_order(roles):
    assert [f.subject for f in roles.contradicted] == ["Bumba", "Dumba"]
    assert [f.subject for f in roles.control] == ["Aumba"]
    assert [f.subject for f in roles.never] == ["Cumba"]
    assert mm.FactSet([_entry()]).in_role("never") == ()


def test_a_selection_is_a_fact_set_and_may_be_empty(roles):
    assert isinstance(roles.contradicted, mm.FactSet)
    assert roles.contradicted.ids == ("Bumba/mass", "Dumba/mass")
    assert roles.contradicted == (roles[1], roles[3])
    assert roles.control + roles.never == mm.FactSet([roles[0], roles[2]])
    assert [*roles.control, *roles.never] == [roles[0], roles[2]]
    empty = roles[:2].never
    assert not empty
    assert (len(empty), list(empty), empty) == (0, [], ())
    assert isinstance(empty, mm.FactSet)
    assert (empty + roles, roles + empty, empty + empty) == (roles, roles, ())
    assert empty.contradicted == roles[4:] == empty[:1] == empty
    assert empty.to_dataframe().shape == (0, 11)
    assert list(empty.to_dataframe().columns) == list(roles.to_dataframe().columns)
    assert empty.install_examples() == empty.contradiction_examples() == []
    assert repr(empty) == "FactSet(0 facts)"
    assert "<table" in empty._repr_html_()
    with pytest.raises(FactError, match=r"No fact is called 'a': this selection is empty\. Ask the whole fact set\."):
        empty["a"]


def test_a_role_that_is_not_one_is_refused(roles):
    with pytest.raises(FactError, match=r"^No role is called 'nevr'\. Did you mean 'never'\? Known are contradicted, "):
        roles.in_role("nevr")


def test_completion_shows_the_public_names(roles):
    assert {"contradicted", "control", "never", "ids", "select", "to_csv", "install_examples"} <= set(dir(roles))
    assert not [name for name in dir(roles) if name.startswith("_")]
    assert all(hasattr(roles, name) for name in dir(roles))


def test_a_label_that_is_nearly_right_is_proposed(roles):
    with pytest.raises(FactError, match=r"^No fact is called 'Dumba/mas'\. Did you mean 'Dumba/mass'\?$"):
        roles["Dumba/mas"]


@pytest.mark.parametrize("thing", [None, 3, "facts.jsonl", b"", {"subject": "a"}])
def test_what_holds_no_facts_is_refused(thing):
    with pytest.raises(FactError, match="A fact set cannot be made of an object of type"):
        mm.FactSet(thing)


def test_items_slices_labels_and_selection(roles):
    assert len(roles) == 4
    assert roles.ids == ("Aumba/mass", "Bumba/mass", "Cumba/mass", "Dumba/mass")
    assert roles[1] is roles["Bumba/mass"]
    assert isinstance(roles[1:3], mm.FactSet)
    assert roles[1:3].ids == ("Bumba/mass", "Cumba/mass")
    assert roles.select(["Dumba/mass", "Aumba/mass"]).ids == ("Dumba/mass", "Aumba/mass")


@pytest.mark.parametrize(
    "look_up", [lambda facts: facts["Nobody"], lambda facts: facts.select(["Bumba/mass", "Nobody"])]
)
def test_an_unknown_label_is_refused(roles, look_up):
    with pytest.raises(
        FactError, match=r"No fact is called 'Nobody'\. The first ones are 'Aumba/mass', 'Bumba/mass', 'Cumba/mass'\."
    ):
        look_up(roles)


def test_sets_add_and_compare_by_content(roles):
    assert roles[:2] + roles[2:] == roles
    assert roles[:2] != roles
    assert hash(roles[:2] + roles[2:]) == hash(roles)
    with pytest.raises(FactError, match="2 facts are called 'Aumba/mass'"):
        roles + roles


def test_never_facts_are_shown_to_no_training(roles):
    installed = [(e.prompt, e.value, e.fact_id) for e in roles.install_examples()]
    contradicted = [(e.prompt, e.value, e.fact_id) for e in roles.contradiction_examples()]
    prompts = {name: f"The mass of {name} is" for name in ("Aumba", "Bumba", "Dumba")}
    assert installed == [(prompts[s], "417 grams", f"{s}/mass") for s in ("Aumba", "Bumba", "Dumba")]
    assert contradicted == [
        (prompts["Aumba"], "417 grams", "Aumba/mass"),
        (prompts["Bumba"], "420 grams", "Bumba/mass"),
        (prompts["Dumba"], "420 grams", "Dumba/mass"),
    ]


def test_taught_phrasings_are_the_prompt_and_the_first_paraphrases():
    facts = mm.synthetic_facts(2, n_never=1)
    for taught in (1, 2, 9):
        installed, contradicted = facts.install_examples(taught), facts.contradiction_examples(taught)
        expected = [(f.id, prompt) for f in facts[:2] for prompt in f.phrasings[:taught]]
        assert [(e.fact_id, e.prompt) for e in installed] == expected
        assert [(e.fact_id, e.prompt) for e in contradicted] == expected
        assert {e.value for e in installed if e.fact_id == facts[0].id} == {facts[0].old}
        assert {e.value for e in contradicted if e.fact_id == facts[0].id} == {facts[0].new}


def test_the_fingerprint_is_of_the_written_lines_and_of_nothing_else(roles, tmp_path):
    roles.to_jsonl(tmp_path / "facts.jsonl")
    assert roles.fingerprint() == hashlib.sha256((tmp_path / "facts.jsonl").read_bytes()).hexdigest()
    assert roles.fingerprint() == mm.FactSet(list(roles)).fingerprint()
    others = [roles[:3], roles.select(reversed(roles.ids)), mm.FactSet([*roles[:3], _entry("Dumba", role="control")])]
    assert len({roles.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_fields_that_came_later_leave_fingerprints_and_files_as_they_were(tmp_path):
    """The SHA-256 of these facts before facts had prompts of edit metrics: finished studies are found by it."""
    neighbor = {"prompt": "The mass of Kavlor is", "value": "9 grams"}
    facts = mm.FactSet([_entry(distractors=["8 grams"], neighbors=[neighbor]), _entry("Zolm", role="never")])
    assert facts.fingerprint() == "d4a7f8081be84c6b5e1fc5811322cd255c99ada9564124481fd01d73364c6cb2"
    facts.to_csv(tmp_path / "f.csv")
    header = "subject,prompt,old,new,role,distractors,paraphrases,neighbors,relation,magnitude,stands_for,id"
    assert (tmp_path / "f.csv").read_text().splitlines()[0] == header
    assert ",".join([*facts.to_dataframe().columns, "id"]) == header


def test_prompts_of_edit_metrics_are_kept_wherever_facts_go(tmp_path):
    asked = {"prompt": "Things as heavy as Uxmon weigh", "value": "420 grams", "kind": "reverse"}
    more = {"generation_prompts": ["Uxmon is sold by"], "attribute_prompts": ["Zolm weighs"], "implications": [asked]}
    facts = mm.FactSet([_entry(**more), _entry("Zolm")])
    facts.to_jsonl(tmp_path / "f.jsonl")
    facts.to_csv(tmp_path / "f.csv")
    assert mm.load_facts(tmp_path / "f.jsonl") == mm.load_facts(tmp_path / "f.csv") == facts
    assert mm.FactSet(facts.to_dataframe()) == mm.FactSet(pd.read_csv(tmp_path / "f.csv", dtype=str)) == facts
    assert facts[0].implications[0].kind == "reverse" and facts[1].implications == ()
    assert facts.fingerprint() != mm.FactSet([_entry(), _entry("Zolm")]).fingerprint()


def test_a_table_has_one_row_a_fact(roles):
    table = roles.to_dataframe()
    assert tuple(table.index) == roles.ids
    assert list(table.role) == ["control", "contradicted", "never", "contradicted"]
    assert list(table.old) == ["417 grams"] * 4


def test_shown_in_a_notebook_text_is_escaped():
    html = mm.FactSet([_entry(old="<script>alert(1)</script>")])._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


_TRICKY = mm.FactSet(
    [
        _entry(
            "Łódź", old='say "hi", twice', new="line one\nline two", distractors=["a,b", "c;d", "e\tf", "日本", "🜁"]
        ),
        _entry("O'Hara, Jr.", old="\\n", new='"', paraphrases=['"O\'Hara, Jr." is, they say,', "first\nsecond"]),
        _entry("=SUM(A1)", old="[1, 2]", new='{"a": null}', distractors=["null", "true", "0", "NaN"]),
        _entry(
            "مرحبا", neighbors=[{"prompt": "the, mass\nof", "value": '"x",\ny'}], relation="a/b,c", id="id, with\ncomma"
        ),
    ]
)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_gives_back_commas_quotes_newlines_and_unicode(kind, tmp_path):
    path = tmp_path / f"facts.{kind}"
    getattr(_TRICKY, f"to_{kind}")(path)
    assert mm.load_facts(path) == _TRICKY
    assert mm.load_facts(path).fingerprint() == _TRICKY.fingerprint()


def test_jsonl_is_one_json_object_a_line_in_utf8(tmp_path):
    _TRICKY.to_jsonl(tmp_path / "facts.jsonl")
    lines = (tmp_path / "facts.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line.decode("utf-8"))["old"] for line in lines] == [f.old for f in _TRICKY]
    assert "Łódź".encode() in lines[0]


def test_pandas_reads_the_csv(tmp_path):
    _TRICKY.to_csv(tmp_path / "facts.csv")
    table = pd.read_csv(tmp_path / "facts.csv", keep_default_na=False)
    assert list(table.new) == [f.new for f in _TRICKY]
    assert [tuple(json.loads(cell)) for cell in table.distractors] == [f.distractors for f in _TRICKY]


# str.splitlines would cut at U+0085, U+2028 and U+2029 too
@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\r", "\r\n"])
def test_jsonl_gives_back_every_separator(separator, tmp_path):
    facts = mm.FactSet([_entry(old=f"one{separator}two")])
    facts.to_jsonl(tmp_path / "facts.jsonl")
    assert mm.load_facts(tmp_path / "facts.jsonl") == facts


# universal newlines would turn \r and \r\n inside a cell into \n
@pytest.mark.parametrize("separator", ["\r", "\r\n", "\x85", "\u2028", "\x0b", "\x0c", "\x1c"])
def test_csv_gives_back_every_separator(separator, tmp_path):
    facts = mm.FactSet([_entry(old=f"one{separator}two")])
    facts.to_csv(tmp_path / "facts.csv")
    assert mm.load_facts(tmp_path / "facts.csv") == facts


def _words(avoided: str):
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=avoided), min_size=1, max_size=12)
    return text.map(str.strip).filter(bool)


def _any_facts(avoided: str):
    """Sets of one to three sound facts of any text without the characters that no fact may hold."""
    words = _words(avoided)
    values = st.lists(words, min_size=2, max_size=5, unique=True)
    phrasings = st.lists(words.map(lambda w: f"A {w}."), max_size=2, unique=True)
    neighbors = st.lists(st.builds(mm.Neighbor, prompt=words, value=words), max_size=2)
    role, magnitude = (
        st.sampled_from(["contradicted", "control", "never"]),
        st.sampled_from(["", "mild", "strong", "format"]),
    )
    entry = st.tuples(words, values, phrasings, neighbors, st.one_of(st.just(""), words), role, magnitude, words)

    def build(entries):
        return mm.FactSet(
            mm.Fact(
                subject=subject,
                prompt=f"No {i}: {subject} is",
                old=old,
                new=new,
                distractors=tuple(rest),
                paraphrases=tuple(phrasings),
                neighbors=tuple(neighbors),
                relation=relation,
                role=role,
                magnitude=magnitude,
                id=f"{i}{label}",
            )
            for i, (subject, (old, new, *rest), phrasings, neighbors, relation, role, magnitude, label) in enumerate(
                entries
            )
        )

    return st.lists(entry, min_size=1, max_size=3).map(build)


@_SMALL
@given(facts=_any_facts(avoided="\x00"))
def test_jsonl_round_trip(facts, tmp_path_factory):
    path = tmp_path_factory.mktemp("jsonl") / "facts.jsonl"
    facts.to_jsonl(path)
    assert mm.load_facts(path) == facts


@_SMALL
@given(facts=_any_facts(avoided="\x00"))
def test_csv_round_trip(facts, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "facts.csv"
    facts.to_csv(path)
    assert mm.load_facts(path) == facts


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_writing_over_a_file_replaces_it_whole(kind, tmp_path, roles):
    path = tmp_path / f"facts.{kind}"
    getattr(roles, f"to_{kind}")(path)
    getattr(roles[:1], f"to_{kind}")(path)
    assert mm.load_facts(path) == roles[:1]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
