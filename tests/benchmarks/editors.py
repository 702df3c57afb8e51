"""What an edit costs: mechmask's against the published algorithms, written naively, at equal results.

MEMIT and AlphaEdit on many facts at once, per fact, and ROME on one, by an editor that stands ready and from nothing.
The naive ones (tests/reference_algorithms) seek values one fact at a time on whole prompts, with logits everywhere, and
solve systems as wide as a key; contexts, second moments and settings are the same, and nothing is timed that is done
once a model. Serial work is proportional to the number of facts, so it is timed on a few of them. What is timed is
edited in turns; reported are the median over rounds of the ratio within a round and how far the updates differ.
Measures, never gates.

    python tests/benchmarks/editors.py --data ../shared/data/counterfact/counterfact.json --facts 100 --serial 4

Without data it takes the facts that the package brings, whose prompts end nearer to their subject.
"""

import argparse
import copy
import random
import sys
import warnings
from pathlib import Path

import torch
from timing import CLOCKS, medians, seconds, write

import mechmask as mm
from mechmask.write.edit import prepare
from mechmask.write.requests import requests
from mechmask.write.values import seek_values

sys.path.insert(0, str(Path(__file__).parents[1] / "reference_algorithms"))
import keyed_editors as naive

RESULTS = Path(__file__).parent / "results"


def settings_of(config):
    c = config
    return naive.Settings(c.value_steps, c.value_lr, c.value_decay, c.value_clamp, c.value_kl, c.value_stop)


def dense(editor):
    return {
        layer: m.matrix + m.shrinkage * m.matrix.trace() / len(m.matrix) * torch.eye(len(m.matrix), dtype=torch.float64)
        for layer, m in editor.moments.items()
    }


def solve_of(editor):
    c = editor.config
    if c.method == "memit":
        return naive.memit_solve(dense(editor), c.moment_weight)
    projectors = naive.projectors({layer: m.matrix for layer, m in editor.moments.items()}, c.null_space_threshold)
    return naive.alphaedit_solve(projectors, c.ridge)


class Spread:
    """One method on many facts at once, and naively on a few of them."""

    def __init__(self, model, method, facts, n_serial, device, clock):
        self.model, self.facts, self.some = model, facts, facts[:n_serial]
        self.editor, self.device, self.clock = prepare(model, method), device, clock
        self.solve = solve_of(self.editor)
        self.editor._make(model, tuple(self.some), None)  # factors of second moments are made when first asked for

    def round(self):
        together = self.time(lambda: self.editor._make(self.model, tuple(self.facts), None))
        serial = self.time(self.naively)
        return together / len(self.facts), serial / len(self.some)

    def naively(self):
        before = {layer: naive.projection_of(self.model.module, layer).weight.clone() for layer in self.editor.moments}
        c = self.editor.config
        module, tokenizer, contexts = self.model.module, self.model.tokenizer, self.editor.contexts
        try:
            naive.spread(module, tokenizer, self.some, c.layers, contexts, settings_of(c), self.solve)
        finally:
            with torch.no_grad():
                for layer, weight in before.items():
                    naive.projection_of(module, layer).weight.copy_(weight)

    def difference(self):
        """Of the deltas of the facts that are sought naively too."""
        config, layer = self.editor.config, self.editor.config.layers[-1]
        asked = requests(self.model, self.some, self.editor.contexts)
        mine = seek_values(self.model, asked, layer, config, "residual").delta
        module, tokenizer = self.model.module, self.model.tokenizer
        theirs = [
            naive.value_of(module, tokenizer, f, layer, self.editor.contexts, "residual", settings_of(config))[1]
            for f in self.some
        ]
        return max(float((a - b).norm() / b.norm()) for a, b in zip(mine, theirs, strict=True))

    def time(self, work):
        return seconds(work, self.device, self.clock)


def rome_alone(model, ready, facts, clock):
    """Seconds of a ROME edit, its outcome read: by an editor that stands ready, and by ``mm.edit``."""
    works = {
        "rome, seconds an edit": lambda fact: copy.copy(ready).edit([fact], progress=False),
        "rome by mm.edit": lambda fact: mm.edit(model, [fact], config=ready.config, progress=False),
    }
    device = str(model.device)
    took = {name: [seconds(lambda f=f, w=work: w(f), device, clock) for f in facts] for name, work in works.items()}
    return {name: sum(each) / len(each) for name, each in took.items()}


def drawn(data, n):
    """Facts to edit, by a seed."""
    if data is not None:
        facts = list(mm.load_facts(data))
    else:
        facts = list(mm.world_facts())
        facts += [f.model_copy(update={"id": f"{f.id} 2", "prompt": f.paraphrases[0]}) for f in facts if f.paraphrases]
    return random.Random(0).sample([f for f in facts if f.subject in f.prompt], n)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, help="facts to edit, such as CounterFact's")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--serial", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=RESULTS / "editors-cpu.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The .* edit did not take")
    model = mm.load_model(options.model, device=options.device)
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)  # as the published code has it
    facts = drawn(options.data, options.facts)
    print(f"{len(facts)} facts, {options.serial} of them one by one", flush=True)
    compared = {
        name: Spread(model, name, facts, options.serial, options.device, options.clock)
        for name in ("memit", "alphaedit")
    }
    rome = prepare(model, "rome")
    rome.get_ready()
    differences = {name: each.difference() for name, each in compared.items()}
    rounds = []
    for _ in range(options.rounds):
        found = {}
        for name, each in compared.items():
            mine, theirs = each.round()
            found |= {
                f"{name}, seconds a fact": mine,
                f"{name}, naively": theirs,
                f"{name}, times faster": theirs / mine,
            }
        rounds.append({**found, **rome_alone(model, rome, facts[:3], options.clock)})
    report = medians(rounds)
    print({name: f"{value:.1e}" for name, value in differences.items()})
    counts = {name: getattr(options, name) for name in ("facts", "serial", "rounds", "clock")}
    counts["data"] = "world_facts" if options.data is None else options.data.name
    write(options.out, options.device, model, {**counts, "relative difference of delta": differences, **report})


if __name__ == "__main__":
    main()
