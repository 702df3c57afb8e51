"""Probes: enough of any fact, the prompt whole and last in each, none that a training of the prompt shows."""

from __future__ import annotations

import re

from mechmask import Fact, FactSet
from mechmask.facts.probes import PROBE_FRAMES, probed, probes

PARIS = Fact(
    subject="France",
    prompt="The capital of France is",
    old="Paris",
    new="Rome",
    paraphrases=("France has its capital in", "In fact, The capital of France is"),
)


def test_every_fact_has_a_dozen_whatever_it_brings(facts):
    for fact in facts:
        asked = probes(fact)
        assert len(asked) >= 12 and len(set(asked.values())) == len(asked)
        assert fact.prompt not in asked.values()
        assert all(asked[name].endswith(fact.prompt) for name in PROBE_FRAMES)
        assert {text for name, text in asked.items() if name not in PROBE_FRAMES} == set(fact.paraphrases)


def test_a_paraphrase_that_reads_as_a_frame_is_asked_once():
    asked = probes(PARIS)
    assert asked["paraphrase_1"] == "France has its capital in" and "paraphrase_2" not in asked
    assert asked["in_fact"] == "In fact, The capital of France is"


def test_the_probed_fact_is_a_fact_with_its_probes_as_paraphrases(facts):
    whole = FactSet(probed(fact) for fact in facts)
    for fact in facts:
        assert whole[fact.id].phrasings == (fact.prompt, *probes(fact).values())


def test_no_frame_names_a_capital_or_a_number():
    for frame in PROBE_FRAMES.values():
        assert frame.count("{}") == 1 and frame.endswith("{}") and not re.search(r"\d", frame)


def test_a_prompt_with_braces_stays_as_it_is():
    odd = PARIS.model_copy(update={"prompt": "{France}: the capital {0} of France is"})
    assert probes(odd)["in_fact"] == "In fact, {France}: the capital {0} of France is"
