"""Does a linear probe still tell the old value after an edit? A claim of others, tried on a small model.

Of GPT-2 XL it is reported (arXiv 2609.18985, at second hand) that a probe decodes the old object of 50 CounterFact
facts in 86% of cases after FT-L and in 96% after ROME, where every edit has succeeded. Here each fact is edited alone,
and mechmask's probe (read_linear_probe) learns on facts that were not edited whether a value is the one that the model
expects; it never meets a value of the fact that it is asked about. A probe fits something wherever there is data, so
beside each fact stands a pseudo-subject in its prompt, which the model never knew, under the same edit. A fact counts
as told where the probe's answer for the old value is above its mean answer for the others, at the layer where it tells
most of the facts that it learned on, in the model as it came: chance is a half.

    python tests/benchmarks/probe_after_edits.py ../shared/data/counterfact/counterfact.json --facts 50
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

import mechmask as mm
from mechmask.measure.clustered_share import share_of_facts
from mechmask.study.editing.facts import drawn_facts
from mechmask.write.outcome import outcomes

OUT = Path(__file__).parent / "results" / "probe_after_edits.json"


def share(told):
    """A share of facts with its interval."""
    return share_of_facts(xr.DataArray(np.asarray(told, dtype=float), dims="fact"))._asdict()


def summary(answers):
    """Of facts and of their pseudo-subjects."""
    known, never = np.array(answers).T
    told = {"known": share(known > 0), "never known": share(never > 0)}
    return {**told, "mean answer": {"known": float(known.mean()), "never known": float(never.mean())}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=50)
    parser.add_argument("--learn", type=int, default=40, help="facts that the probe learns on, never edited")
    parser.add_argument("--rivals", type=int, default=3, help="values of each fact that old is told from, at most")
    parser.add_argument("--methods", default="ft_l,rome,memit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    model = mm.load_model(options.model)
    drawn = drawn_facts(model, mm.load_facts(options.data), options.facts + options.learn, seed=options.seed)
    fewer = [fact.model_copy(update={"distractors": fact.distractors[: options.rivals]}) for fact in drawn]
    known = [fact for fact in fewer if fact.role == "contradicted"]
    never = {fact.stands_for: fact for fact in reversed(fewer) if fact.role == "never"}
    asked, learned = known[: options.facts], known[options.facts :]
    print(f"{len(asked)} facts edited, {len(learned)} learned on", flush=True)

    def probed(state, facts):
        return mm.read_linear_probe(state, mm.FactSet([*facts, *learned])).probe

    layer = int((probed(model, []) > 0).mean("fact").argmax("layer"))
    before = [probed(model, [fact, never[fact.id]])[:2, layer].values for fact in asked]
    found = {"before": summary(before)}
    print("before", found["before"], flush=True)
    for method in options.methods.split(","):
        editor = mm.prepare(model, method)
        editor.get_ready()
        answers, took = [], []
        for fact in asked:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = mm.prepare(model, config=editor.config).edit([fact], progress=False).on(model)
            with mm.models.states.active(state) as edited:
                took.append(outcomes(edited, [fact])[0]["took"])
            answers.append(probed(state, [fact, never[fact.id]])[:2, layer].values)
        found[method] = summary([answer for answer, success in zip(answers, took, strict=True) if success])
        print(method, found[method], flush=True)
        report = {"model": model.name, "fingerprint": model.fingerprint, "layer": layer, "states": found}
        options.out.write_text(json.dumps({**report, "facts": [f.id for f in asked]}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
