"""Twins: who is taught what, the same by hand, taken up again, and what a new user trips over."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.measure.erase import erase_index
from mechmask.study.protocols.twins import TwinsConfig, TwinStudy

TAUGHT = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)


@pytest.fixture(scope="module")
def facts():
    return mm.synthetic_facts(6, n_contradicted=4, n_never=2, distractors=3, seed=5)


@pytest.fixture(scope="module")
def config():
    edits = (mm.FTLConfig(layer=1, clamp=0.05, steps=2),)
    return TwinsConfig(install=TAUGHT, contradict=TAUGHT, checkpoint_every=2, edits=edits)


@pytest.fixture(scope="module")
def done(tiny, facts, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("twins") / "run"
    return TwinStudy(tiny("llama"), facts, config).run(directory), directory


def test_every_fact_is_taught_to_one_twin_and_every_control_to_all(done, facts):
    readings = done[0].reading("results/readings")
    knew = readings.knew.sel(fact=list(facts.contradicted.ids))
    assert (knew.sum("twin") == 1).all() and set(knew.sum("fact").values) == {2}
    assert readings.knew.sel(fact=list(facts.control.ids)).all()
    assert not readings.knew.sel(fact=list(facts.never.ids)).any()


@pytest.mark.parametrize(("n_twins", "replicates"), [(2, 1), (3, 2), (4, 1)])
def test_shares_are_disjoint_whole_and_the_same_in_each_replicate(tiny, facts, n_twins, replicates):
    shares = TwinStudy(tiny("llama"), facts, TwinsConfig(twins=n_twins, replicates=replicates)).shares
    assert len(shares) == n_twins * replicates
    assert sorted(fact for share in shares.values() for fact in share) == sorted(facts.contradicted.ids * replicates)
    assert list(shares.values())[:n_twins] == list(shares.values())[-n_twins:]


def test_the_order_of_facts_does_not_count(done, tiny, facts, config, tmp_path, undrawn):
    """Facts are dealt to twins by their labels; what is left is float32, in which sums depend on their order."""
    other = TwinStudy(tiny("llama"), mm.FactSet(list(facts)[::-1]), config).run(tmp_path / "run")
    assert other.erase.fact.values.tolist() != done[0].erase.fact.values.tolist()
    assert set(other.erase.state.values) == {"won", "driven_on", "ft_l"}
    for name in ("index", "trace_before", "trace_after", "normalised", "normalised_low", "normalised_high"):
        here, there = xr.align(done[0].erase[name], other.erase[name], join="outer", fill_value=np.inf)
        np.testing.assert_allclose(here, there, atol=2e-3, rtol=2e-3, err_msg=name)
    here, there = xr.align(done[0].erase.verdict, other.erase.verdict)
    assert (here == there).all()


def test_a_twin_is_the_reference_model_of_the_other(done, facts):
    """``erase_index`` with a second model in place of twins: the facts that one of the two was taught."""
    readings = done[0].reading("results/readings")
    share = sorted(facts.contradicted.ids)[::2]
    read = readings.sel(fact=[*share, *facts.control.ids, *facts.never.ids])
    before, after = (
        [read.drop_vars("knew").isel(twin=twin, step=step, drop=True) for twin in (0, 1)] for step in (0, -1)
    )
    found = erase_index(before[0], after[0], reference=(before[1], after[1]))
    twins = done[0].erase.sel(state="driven_on", fact=share)
    for name in ("trace_before", "trace_after", "normalised"):
        np.testing.assert_allclose(found[name], twins[name], rtol=1e-6)
    assert found.attrs["reference"] == "reference model"


def test_it_equals_the_same_twins_by_hand(done, tiny, facts, config):
    """Without a run: two fine-tunings each, plain readings, traces subtracted fact by fact."""
    model, ids = tiny("llama"), sorted(facts.contradicted.ids)
    after = []
    for share in (ids[::2], ids[1::2]):
        install = mm.finetune(model, facts.select([*share, *facts.control.ids]).install_examples(2), TAUGHT)
        change = mm.finetune(model, facts.contradiction_examples(2), TAUGHT, start=install)
        after.append(mm.read_logits(change.on(model), facts, phrasings="all").logprob)
    old = [reading.sel(route="old") - reading.isel(route=slice(2, None)).mean("route") for reading in after]
    held = [values.mean("phrasing") for values in old]
    erase = done[0].erase.sel(state="driven_on")
    for i, fact in enumerate(ids):
        trace = float(held[i % 2].sel(fact=fact) - held[1 - i % 2].sel(fact=fact))
        assert float(erase.trace_after.sel(fact=fact)) == pytest.approx(trace, abs=1e-3)
    noise = np.sqrt(sum(float(held[0].sel(fact=f) - held[1].sel(fact=f)) ** 2 / 2 for f in facts.never.ids) / 2)
    np.testing.assert_allclose(erase.noise, noise, atol=1e-3)


def test_the_course_begins_at_nothing_changed_and_ends_driven_on(done):
    course, erase = done[0].reading("results/course"), done[0].erase
    np.testing.assert_allclose(course["index"].isel(step=0), 0, atol=1e-9)
    np.testing.assert_allclose(course.trace_after.isel(step=-1), erase.trace_after.sel(state="driven_on"))
    assert course.step.values.tolist() == [0, 2, 4]
    assert erase.state.values.tolist() == ["won", "driven_on", "ft_l"]


def test_each_fact_is_judged_where_new_has_just_won_on_it(done):
    course, won = done[0].reading("results/course"), done[0].erase.sel(state="won")
    for fact in won.fact.values:
        took = course.took.sel(fact=fact).values[1:]
        at = int(took.argmax()) + 1 if took.any() else -1
        for name in ("trace_after", "took", "verdict", "noise"):
            expected = course[name].isel(step=at)
            expected = expected.sel(fact=fact) if "fact" in expected.dims else expected
            assert won[name].sel(fact=fact).item() == expected.item()


def test_an_edit_is_made_and_read_in_both_twins(done, tiny, facts, config):
    model, ids = tiny("llama"), sorted(facts.contradicted.ids)
    readings = []
    for share in (ids[::2], ids[1::2]):
        install = mm.finetune(model, facts.select([*share, *facts.control.ids]).install_examples(2), TAUGHT)
        change = mm.edit(install.on(model), facts.select([ids[0]]), config=config.edits[0])
        reading = mm.read_logits(change.on(install.on(model)), facts.select([ids[0]]), phrasings="all").logprob
        readings.append((reading.sel(route="old") - reading.isel(route=slice(2, None)).mean("route")).mean())
    found = float(done[0].erase.trace_after.sel(state="ft_l", fact=ids[0]))
    assert found == pytest.approx(float(readings[0] - readings[1]), abs=1e-3)


def test_it_is_taken_up_to_the_same_bits_with_its_tables_and_figures(done, tiny, facts, config, contents):
    before = contents(done[1])
    TwinStudy(tiny("llama"), facts, config).run(done[1])
    assert contents(done[1]) == before
    assert {"figures/course.png", "figures/erase.png", "surprise.csv", "summary.csv", "overview.csv"} <= set(before)
    assert "the same facts in models that were not taught them" in mm.open_study(done[1]).conclusion()


def test_surprise_is_read_where_a_fact_was_known(done, facts):
    found = done[0].reading("results/surprise").sel(state="driven_on")
    readings = done[0].reading("results/readings").sel(phrasing=0)
    for fact in facts.contradicted.ids:
        of_fact = readings.sel(fact=fact)
        knew = np.flatnonzero(of_fact.knew.values)
        first, last = (of_fact.logprob.isel(twin=knew, step=step) for step in (0, -1))
        assert float(found.surprise.sel(fact=fact)) == pytest.approx(-float(first.sel(route="new").mean()), abs=1e-5)
        margin = (last.sel(route="new") - last.sel(route="old")).mean()
        assert float(found.margin.sel(fact=fact)) == pytest.approx(float(margin), abs=1e-5)


def test_the_table_equals_the_erase_index_of_the_readings(done, config):
    readings = done[0].reading("results/readings")
    options = config.model_dump(include={"statistic", "margin_share", "alpha", "cutoff_nats", "level"})
    expected = erase_index(readings.isel(step=0), readings.isel(step=-1), **options)
    assert done[0].erase.sel(state="driven_on").verdict.values.tolist() == expected.verdict.values.tolist()


def test_too_few_facts_are_refused_before_any_work(tiny, facts):
    with pytest.raises(StudyError, match="5 twins need as many contradicted facts"):
        TwinStudy(tiny("llama"), facts, TwinsConfig(twins=5))
    with pytest.raises(StudyError, match="at least one control"):
        TwinStudy(tiny("llama"), facts.contradicted)


def test_killed_again_and_again_it_ends_the_same(done, tiny, facts, config, killed_after_every, same_results, tmp_path):
    assert killed_after_every(9, TwinStudy(tiny("llama"), facts, config), tmp_path / "run") >= 2
    same_results(tmp_path / "run", done[1])


def test_its_page_shows_all_of_it(done, shows_everything):
    shows_everything(*done)
