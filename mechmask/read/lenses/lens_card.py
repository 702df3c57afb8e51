"""What a lens says of itself on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mechmask.hub import is_id
from mechmask.hub_card import Card
from mechmask.read.lenses.files import StoredLens


def card_of(lens: StoredLens, repo_id: str, license: str | None) -> Card:
    """The card of a lens.

    Args:
        lens: the lens as its files hold it.
        repo_id: where it is pushed to.
        license: of the weights.
    """
    details = dict(lens.details)
    model = str(details.get("model") or "the model of this fingerprint")
    on_the_hub = is_id(model) and not Path(model).exists()
    model = model if on_the_hub else Path(model).name  # a path says where a machine keeps it, which is nobody's matter
    versions = {name.replace("version_", "version of "): v for name, v in details.items() if "version_" in name}
    made_from = {"model": model, "fingerprint of the model": details.get("fingerprint", "unknown")}
    made_from |= {"text": Path(str(details.get("corpus", "unknown"))).name, "layers": lens.n_layers}
    made_from |= {"width": lens.width, "hash of the unembedding": lens.unembed_hash or "unknown", **versions}
    return Card(
        kind="lens",
        title=f"{repo_id.partition('/')[2]}: a {lens.kind} lens",
        about=(
            f"An affine lens ({lens.kind}) for {model}: it carries the residual stream of every layer to the last one, "
            "so that the model's own unembedding says what the layer holds. The tensors are safetensors; "
            "lens.save(directory) writes them in tuned-lens's format."
        ),
        code=(
            "import mechmask as mm\n\n"
            f"model = mm.load_model({model!r})\n"
            f"lens = mm.load_lens({repo_id!r}, model)  # revision= takes a branch, tag or commit\n"
            "mm.read_depth(model, facts, lens=lens)"
        ),
        made_from=made_from,
        numbers=_numbers(lens),
        settings=details.get("config", {}) if isinstance(details.get("config"), dict) else {},
        tags=["lens", "interpretability", lens.kind],
        license=license,
        base_model=model if on_the_hub else None,
        more={"mechmask": {"kind": "lens", "base_fingerprint": made_from["fingerprint of the model"]}},
    )


def _numbers(lens: StoredLens) -> Sequence[Sequence[object]]:
    """KL to the model's output on held-out tokens in nats, a row a layer; none where it is not known."""
    if lens.report is None:
        return []
    table = lens.report.kl.transpose("layer", "lens").to_pandas()
    head = ["layer", *(f"KL of {name} (nats)" for name in table.columns)]
    return [head, *([int(layer), *map(float, row)] for layer, row in zip(table.index, table.values, strict=True))]
