"""The paper's finding 5 on a small model: at which depth a correction is written, over several draws of facts.

The paper (Qwen2.5-3B, 36 layers, tuned lens): before, the old value is computed at 35 of 36 layers; after, the new one
commits at about layer 25 and almost all of its evidence comes from the last ten. Here each draw installs twelve facts,
contradicts six, and is read by a lens and by patching. The unit of every interval is the draw: facts that were trained
together are not independent. Writes the table, the depth readings of all draws and, where asked, their figure.

    python tests/benchmarks/finding_5.py --draws 10 --lens ridge --figure assets/finding_5.png
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import mechmask as mm
from mechmask.measure.reading import save_reading
from mechmask.measure.statistics import mean_interval

RESULTS = Path(__file__).parent / "results"


def one_draw(model, lens, seed, install_steps, contradict_steps):
    """What the contradicted facts of one draw say on average, and their depth before and after.

    Shares are medians over facts: one whose final margin hardly changed has a share of any size.
    """
    facts = mm.synthetic_facts(12, seed=seed, n_never=0)
    contradicted = facts.contradicted
    install = mm.finetune(model, facts.install_examples(), mm.FinetuneConfig(steps=install_steps, seed=seed))
    contradict = mm.finetune(
        model, facts.contradiction_examples(), mm.FinetuneConfig(steps=contradict_steps, seed=seed), start=install
    )
    before, after = install.on(model), contradict.on(model)
    depth = {name: mm.read_depth(state, contradicted, lens) for name, state in (("before", before), ("after", after))}
    patched = mm.patch_residual(after, before, contradicted, progress=False)
    where = mm.where_written(depth["after"], patched)
    n_layers = model.n_layers
    both = xr.concat(
        list(depth.values()), xr.DataArray(list(depth), dims="state", name="state"), combine_attrs="drop_conflicts"
    )
    both = both.assign_coords(
        fact=[f"{seed}/{fact.id}" for fact in contradicted], seed=("fact", [seed] * len(contradicted))
    )
    return both, {
        "new_leads_at_the_end": float((depth["after"].margin.isel(layer=-1) > 0).mean()),
        "commit_layer_lens": float(where.lens.mean()),
        "commit_layer_patched": float(where.patched.mean()),
        "evidence_share_last_third": float(mm.evidence_share_last_third(depth["before"], depth["after"]).median()),
        "evidence_share_last_ten_layers": float(
            mm.evidence_share(depth["before"], depth["after"], n_layers - 10).median()
        ),
        "layers_old_leads_before": float(mm.layers_computed(depth["before"], "old").mean()),
        "layers_old_leads_after": float(mm.layers_computed(depth["after"], "old").mean()),
        "change_of_margin_below_last_ten_nats": float(
            abs(depth["after"].margin - depth["before"].margin).sel(layer=slice(1, n_layers - 10)).mean()
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--lens", default="ridge", help="logit, ridge or tuned; fitted on the base model and cached")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--install-steps", type=int, default=30)
    parser.add_argument("--contradict-steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "finding_5.json", help="a .nc stands beside it")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device)
    lens = options.lens if options.lens == "logit" else mm.cached_lens(model, options.lens)
    draws, depths = [], []
    for seed in range(options.draws):
        depth, means = one_draw(model, lens, seed, options.install_steps, options.contradict_steps)
        draws.append(means)
        depths.append(depth)
        print(seed, {name: round(value, 2) for name, value in draws[-1].items()}, flush=True)
    report = {}
    for name in draws[0]:
        interval = mean_interval([draw[name] for draw in draws])
        report[name] = {key: None if np.isnan(value) else value for key, value in interval._asdict().items()}
        print(f"{name:<40} {interval}")
    header = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "n_layers": model.n_layers,
        "lens": options.lens,
        "install_steps": options.install_steps,
        "contradict_steps": options.contradict_steps,
        "facts_a_draw": 6,
    }
    options.out.write_text(json.dumps({**header, **report}, indent=1) + "\n")
    depth = xr.concat(depths, "fact", combine_attrs="drop_conflicts")
    save_reading(depth, options.out.with_suffix(".nc"))
    if options.figure:
        mm.draw.save_figure(mm.draw.delta(depth), options.figure)


if __name__ == "__main__":
    main()
