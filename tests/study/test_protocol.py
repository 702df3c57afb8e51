"""A protocol as a user would write it, in forty lines: install, contradict, edit, read, table; taken up again."""

from __future__ import annotations

import mechmask as mm


def priming(model, facts, directory, lr=1e-2):
    """Does a second installation protect the old value? Two histories, one contradiction, one table."""
    config = mm.FinetuneConfig(steps=4, lr=lr, rank=4)
    with mm.Run(directory, model, facts, {"protocol": "priming"}) as run:
        once = mm.train(run, "once", facts.install_examples(), config)
        twice = mm.train(run, "twice", facts.install_examples(), config, start=once)
        contradictions = facts.contradiction_examples()
        states = {
            "once": once,
            "twice": twice,
            "once, contradicted": mm.train(run, "once-contradicted", contradictions, config, start=once),
            "twice, contradicted": mm.train(run, "twice-contradicted", contradictions, config, start=twice),
        }
        output = mm.read_states(run, states, mm.read_logits, phrasings="all")
        depth = mm.read_states(run, states, mm.read_depth, roles=["contradicted"])
    return {
        name: {
            "index": float(mm.erase_index(output[name], output[f"{name}, contradicted"])["index"].mean()),
            "commit": float(mm.commit_layer(depth[f"{name}, contradicted"]).mean()),
        }
        for name in ("once", "twice")
    }


def test_a_new_protocol_is_forty_lines(tiny, small_facts, tmp_path):
    table = priming(tiny("llama"), small_facts, tmp_path / "run")
    assert set(table) == {"once", "twice"} and table["once"]["index"] != table["twice"]["index"]
    again = priming(tiny("llama"), small_facts, tmp_path / "run")
    assert again == table


def test_it_equals_the_same_calls_by_hand(tiny, small_facts, tmp_path):
    """Without a run: fine-tuning, states, readings."""
    table = priming(tiny("llama"), small_facts, tmp_path / "run")
    model, config = tiny("llama"), mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)
    once = mm.finetune(model, small_facts.install_examples(), config)
    contradicted = mm.finetune(model, small_facts.contradiction_examples(), config, start=once)
    before = mm.read_logits(once.on(model), small_facts, phrasings="all")
    after = mm.read_logits(contradicted.on(model), small_facts, phrasings="all")
    assert table["once"]["index"] == float(mm.erase_index(before, after)["index"].mean())


def test_its_results_open_without_the_model(tiny, small_facts, tmp_path):
    priming(tiny("llama"), small_facts, tmp_path / "run")
    results = mm.open_study(tmp_path / "run")
    reading = results.tree["readings/read_logits/once, contradicted"]
    assert set(reading.logprob.dims) == {"fact", "phrasing", "route"}
    assert all(row.state == "done" for row in mm.study_status(tmp_path / "run"))


def test_another_setting_makes_anew_what_follows_from_it(tiny, small_facts, tmp_path):
    first = priming(tiny("llama"), small_facts, tmp_path / "run")
    other = priming(tiny("llama"), small_facts, tmp_path / "run", lr=5e-3)
    assert other["once"]["index"] != first["once"]["index"]
    back = priming(tiny("llama"), small_facts, tmp_path / "run")
    assert back == first
