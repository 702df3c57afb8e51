"""Edits and trainings at one margin: what is read and counted by hand, who is left out, the same bits again."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.measure.old_value import STATISTICS, statistic_of_old
from mechmask.study.contrast_config import ContrastConfig
from mechmask.study.matching import edited_to_margin, margins_of, trained_to_margin
from mechmask.study.protocols import contrast
from mechmask.study.protocols.contrast import ContrastStudy

MARGIN = 1.5
LORA = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)
FTL = mm.FTLConfig(layer=1, clamp=0.2, steps=4, lr=2e-2)
WEAK = mm.FinetuneConfig(steps=1, lr=1e-7, rank=4)


@pytest.fixture(scope="module")
def facts(tiny):
    """Three contradicted facts; on the first new leads before anything is changed."""
    world = mm.world_facts(relations=["capital"], distractors=3)
    margins = margins_of(tiny("llama"), world)
    led, held = (
        [fact for fact in world.ids if chosen(margins[fact])] for chosen in (lambda m: m > 3, lambda m: -30 < m < -5)
    )
    drawn = world.select([led[0], *held[:4]])
    roles = ["contradicted"] * 3 + ["control"] * 2
    held_facts = [fact.model_copy(update={"role": role}) for fact, role in zip(drawn, roles, strict=True)]
    never = mm.assign_roles(mm.FactSet(held_facts[:3]), n_contradicted=3, n_control=0, n_never=3).never
    return mm.FactSet([*held_facts, *never])


@pytest.fixture(scope="module")
def config():
    return ContrastConfig(trainings={"lora": LORA, "weak": WEAK}, edits=(FTL,), matched_margin=MARGIN)


@pytest.fixture(scope="module")
def done(tiny, facts, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("contrast") / "run"
    return ContrastStudy(tiny("llama"), facts, config).run(directory), directory


@pytest.fixture(scope="module")
def by_hand(tiny, facts):
    """The states of the last two facts under the two ways that reach the margin, made without a study."""
    model = tiny("llama")
    states = {}
    for fact in facts.contradicted.ids[1:]:
        one = facts.select([fact])
        states["lora", fact] = trained_to_margin(model, one, one.contradiction_examples(), LORA, margin=MARGIN)[fact]
        states["ft_l", fact] = edited_to_margin(model, one, FTL, margin=MARGIN)[fact]
    return model, states


def test_it_is_counted_who_was_brought_to_the_margin(done, facts):
    matched = done[0].reading("results/matched")
    led, *held = facts.contradicted.ids
    assert (matched.status.sel(fact=led) == "led_before").all()
    assert (matched.status.sel(fact=held, way=["lora", "ft_l"]) == "reached").all()
    assert (matched.status.sel(fact=held, way="weak") == "not_reached").all()
    np.testing.assert_allclose(matched.margin.sel(fact=held, way=["lora", "ft_l"]), MARGIN, atol=0.06)
    assert matched.edited.values.tolist() == [False, False, True]


def test_each_statistic_is_that_of_the_state_at_the_margin_and_at_the_end(done, facts, by_hand):
    model, states = by_hand
    found = done[0].reading("results/statistics")
    for (way, fact), one in states.items():
        for dose, change in (("matched", one.change), ("driven_on", one.driven_on)):
            logprob = mm.read_logits(change.on(model), facts.select([fact]), phrasings="all").logprob
            for name in STATISTICS:
                value = float(found.value.sel(dose=dose, way=way, statistic=name, fact=fact))
                assert value == pytest.approx(float(statistic_of_old(logprob, name)[0]), abs=1e-3), name
    before = mm.read_logits(model, facts, phrasings="all").logprob
    for name in STATISTICS:
        expected = statistic_of_old(before, name).sel(fact=found.fact)
        np.testing.assert_allclose(found.before.sel(statistic=name), expected, atol=1e-3)


def test_the_erase_index_is_that_of_every_fact_under_its_own_change(done, facts, by_hand):
    model, states = by_hand
    rest = [*facts.control.ids, *facts.never.ids]
    for (way, fact), one in states.items():
        for name, change in (("erase", one.change), ("driven_on", one.driven_on)):
            asked = facts.select([fact, *rest])
            readings = [mm.read_logits(state, asked, phrasings="all") for state in (model, change.on(model))]
            expected, found = mm.erase_index(*readings), done[0].reading(f"results/{name}").sel(state=way, fact=fact)
            for variable in ("index", "trace_after"):
                assert float(found[variable]) == pytest.approx(float(expected[variable][0]), abs=1e-3)
            assert str(found.verdict.values) == str(expected.verdict.values[0])


def test_what_did_not_reach_the_margin_has_no_number_and_no_pair(done, facts):
    erase = done[0].erase
    assert erase.fact.values.tolist() == list(facts.contradicted.ids[1:])
    weak = erase.sel(state="weak")
    assert weak["index"].isnull().all() and not weak.took.any() and (weak.reason == "did_not_take").all()
    auroc = done[0].reading("results/auroc")
    n = auroc.n.sel(dose="matched", of="after", statistic="trace")
    assert int(n.sel(edited="ft_l", tuned="lora")) == 2
    assert int(n.sel(edited="ft_l", tuned="weak")) == int(n.sel(edited="any", tuned="any")) == 0
    assert (auroc.n.sel(dose="driven_on") == 2).all()
    assert (done[0].reading("results/rebound").n.sel(dose="matched", way="weak") == 0).all()


def test_the_auroc_counts_the_pairs(done):
    value = done[0].reading("results/statistics")
    auroc = done[0].reading("results/auroc").auroc
    for dose in ("matched", "driven_on"):
        for name in value.statistic.values:
            tuned, edited = (value.value.sel(dose=dose, statistic=name, way=way).values for way in ("lora", "ft_l"))
            for of, less in (("after", 0.0), ("change", value.before.sel(statistic=name).values)):
                a, b = tuned - less, edited - less
                counted = np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b))
                found = auroc.sel(dose=dose, of=of, edited="ft_l", tuned="lora", statistic=name)
                assert float(found) == pytest.approx(counted)


def test_where_old_is_back_is_counted_probe_by_probe_and_question_by_question(done, facts, by_hand):
    model, states = by_hand
    found = done[0].reading("results/rebound").sel(dose="matched")
    held = list(facts.contradicted.ids[1:])
    for way in ("lora", "ft_l"):
        led, chosen = [], {"letter": [], "text": []}
        for fact in held:
            state, one = states[way, fact].change.on(model), facts.select([fact])
            margins = mm.read_probes(state, one).margin
            np.testing.assert_allclose(found.margin.sel(way=way, fact=fact), margins[0], atol=1e-3)
            led += (margins < 0).values.ravel().tolist()
            score = mm.read_choice(state, one).score
            for form, of in chosen.items():
                best = str(score.option.values[int(score.sel(form=form, fact=fact).argmax())])
                of.append(best == "old")
                assert str(found.choice.sel(way=way, fact=fact, form=form).values) == best
        assert float(found.share.sel(way=way, asked="probes")) == pytest.approx(np.mean(led))
        for form, of in chosen.items():
            assert float(found.share.sel(way=way, asked=form)) == pytest.approx(np.mean(of))
    before = mm.read_probes(model, facts.select(held)).margin
    np.testing.assert_allclose(found.margin.sel(way="before"), before, atol=1e-3)
    controls = mm.read_probes(model, facts.control).margin < 0
    assert float(found.control_share.sel(way="before", asked="probes")) == pytest.approx(float(controls.mean()))


def test_it_is_taken_up_to_the_same_bits_with_its_tables_and_figures(done, tiny, facts, config, contents):
    before = contents(done[1])
    ContrastStudy(tiny("llama"), facts, config).run(done[1])
    assert contents(done[1]) == before
    wanted = {"figures/contrast.pdf", "figures/erase.png", "matched.csv", "auroc.csv", "rebound.csv", "summary.csv"}
    assert wanted <= set(before)


@pytest.fixture(scope="module")
def few(facts):
    """One fact of each role."""
    fact = facts.contradicted.ids[1]
    never = next(one.id for one in facts.never if one.stands_for == fact)
    return facts.select([fact, facts.control.ids[0], never])


def test_a_run_that_was_cut_off_ends_with_the_same_bits(tiny, few, contents, tmp_path, monkeypatch, undrawn):
    config = ContrastConfig(trainings={"lora": LORA}, edits=(FTL,), matched_margin=MARGIN)

    def cut_off(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(contrast, "edited_to_margin", cut_off)
        ContrastStudy(tiny("llama"), few, config).run(tmp_path / "cut_off")
    assert (tmp_path / "cut_off" / "ways" / "lora").exists() and not (tmp_path / "cut_off" / "results").exists()
    for name in ("cut_off", "whole"):
        ContrastStudy(tiny("llama"), few, config).run(tmp_path / name)
    assert contents(tmp_path / "cut_off") == contents(tmp_path / "whole")


def test_installed_facts_taught_together_start_from_what_was_installed(tiny, few, tmp_path, undrawn):
    config = ContrastConfig(
        trainings={"full": mm.FinetuneConfig(method="full", steps=2, lr=1e-3)},
        taught="together",
        edits=(FTL.model_copy(update={"steps": 2}),),
        install=mm.FinetuneConfig(steps=6, lr=1e-2, rank=4),
        matched_margin=MARGIN,
    )
    model = tiny("llama")
    results = ContrastStudy(model, few, config).run(tmp_path / "run")
    install = mm.finetune(model, few.install_examples(), config.install)
    expected = mm.read_logits(install.on(model), few, phrasings="all").logprob
    np.testing.assert_allclose(results.reading("readings/before").logprob, expected, atol=1e-3)
    assert [path.name for path in (tmp_path / "run" / "ways" / "full").iterdir()] == ["0000"]


REFUSED = [
    ({"edits": ()}, "there is no edit"),
    ({"trainings": {"ft_l": LORA}}, "'ft_l' names a training and an edit"),
    ({"install": mm.FinetuneConfig(method="dora")}, "Nothing can be stacked"),
    ({"trainings": {}}, "trainings"),
    ({"matched_margin": 0}, "matched_margin"),
    ({"taught": "apart"}, "taught"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=lambda of: str(of)[:24])
def test_what_makes_no_contrast_is_refused_before_any_work(tiny, facts, settings, said):
    with pytest.raises(StudyError, match=said):
        ContrastStudy(tiny("llama"), facts, ContrastConfig(**{"edits": (FTL,), **settings}))


def test_facts_without_a_role_and_facts_that_new_leads_are_refused(tiny, facts, config, tmp_path):
    for role in ("contradicted", "control", "never"):
        rest = mm.FactSet(fact for fact in facts if fact.role != role)
        with pytest.raises(StudyError, match=f"0 {role}"):
            ContrastStudy(tiny("llama"), rest, config)
    alone = mm.FactSet(fact for fact in facts if fact.stands_for != facts.contradicted.ids[1])
    with pytest.raises(StudyError, match="no pseudo-subject stands for"):
        ContrastStudy(tiny("llama"), alone, config)
    first = facts.contradicted.ids[0]
    of_first = [fact.id for fact in facts.never if fact.stands_for == first]
    led = facts.select([first, *facts.control.ids, *of_first])
    with warnings.catch_warnings(), pytest.raises(StudyError, match="before anything is changed"):
        warnings.simplefilter("ignore")
        ContrastStudy(tiny("llama"), led, config).run(tmp_path / "run")


def test_its_page_shows_all_of_it(done, shows_everything):
    shows_everything(*done)
