"""Where the parts of a decoder are, worked out from its modules: for families that ``anatomy.LAYOUTS`` does not name.

Only what is unambiguous is taken, and two candidates for one part are refused by name. That the parts do what their
names say, every reading proves against the model's own logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from mechmask.errors import ModelError
from mechmask.models.layout import Layout
from mechmask.models.quantised import is_linear_map

_FACTORS = {
    "logit_factor": "logit_scale",
    "logit_divisor": "logits_scaling",
    "residual_factor": "residual_multiplier",
}
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe", re.IGNORECASE)
_NORM = re.compile(r"norm|^ln", re.IGNORECASE)
_OUT_OF_ATTENTION = re.compile(r"(o|out|output|c|dense|wo)(_?proj)?")
_OUT_OF_MLP = re.compile(r"(down|out|fc_out|c|w2|fc2|dense_4h_to_h|wo)(_?proj)?")


def layout_of(module: PreTrainedModel) -> Layout:
    """The layout of a causal language model.

    Raises:
        ModelError: if a part has two candidates, or none; the message names the part and what was found.
    """
    blocks = _only("its blocks", _block_lists(module), module)
    first = module.get_submodule(blocks)[0]  # pyright: ignore[reportIndexIssue]
    attentions = {
        name: None for block in module.get_submodule(blocks).children() for name in _children(block, _ATTENTION)
    }
    attention = _only("a block's attention", list(attentions), module)
    inner = [
        f"{attention}.{name}" for name, child in first.get_submodule(attention).named_modules() if is_linear_map(child)
    ]
    mlps = _children(first, _MLP)
    mlp = _only("a block's MLP", mlps, module) if mlps else ""
    return Layout(
        blocks=blocks,
        final_norm=_only("the final norm", _final_norms(module, blocks), module),
        attention=attention,
        attention_output=_only("the projection out of an attention", _named(inner, _OUT_OF_ATTENTION), module),
        mlp=mlp,
        mlp_output=_out_of_every_mlp(module, blocks, mlp),
        **_post_norms(first),
        **_factors(module),
    )


def _factors(module: PreTrainedModel) -> dict[str, str]:
    """Settings by which logits and what blocks add are multiplied, by the names that transformers has for them."""
    config = module.config.get_text_config()
    return {field: name for field, name in _FACTORS.items() if isinstance(getattr(config, name, None), (int, float))}


def _only(part: str, found: list[str], module: nn.Module) -> str:
    if len(found) != 1:
        said = f"{len(found)} candidates for {part}: {', '.join(found[:2])}" if found else f"no candidate for {part}"
        raise ModelError(f"The modules of {type(module).__name__} show {said}.")
    return found[0]


def _block_lists(module: PreTrainedModel) -> list[str]:
    """Lists of as many modules as the text model has layers."""
    n_layers = module.config.get_text_config().num_hidden_layers
    return [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == n_layers and not _is_inside_a_list(name)
    ]


def _is_inside_a_list(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _final_norms(module: nn.Module, blocks: str) -> list[str]:
    """Norms beside the list of blocks, but for one of the embedding."""
    above = blocks.rpartition(".")[0]
    names = [name for name, _ in module.get_submodule(above).named_children()]
    found = [name for name in names if _NORM.search(name) and "embed" not in name]
    return [f"{above}.{name}" if above else name for name in found]


def _children(block: nn.Module, kind: re.Pattern[str]) -> list[str]:
    """The paths of a block's children of a kind that hold a linear map; what merely wraps one is looked through."""
    named = [
        n for n, child in block.named_children() if kind.search(n) and not _NORM.search(n) and _holds_weights(child)
    ]
    return [_looked_through(block, name, kind) for name in named]


def _looked_through(block: nn.Module, name: str, kind: re.Pattern[str]) -> str:
    inside = [(n, c) for n, c in block.get_submodule(name).named_children() if _holds_weights(c)]
    if len(inside) == 1 and kind.search(inside[0][0]):
        return _looked_through(block, f"{name}.{inside[0][0]}", kind)
    return name


def _holds_weights(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters()) or any(map(is_linear_map, module.modules()))


def _named(paths: Iterable[str], pattern: re.Pattern[str]) -> list[str]:
    return [path for path in paths if pattern.fullmatch(path.rpartition(".")[2])]


def _out_of_every_mlp(module: PreTrainedModel, blocks: str, mlp: str) -> str:
    """The projection out of the MLP of every block; empty where the MLP of any is a mixture of experts."""
    found = {_out_of_mlp(block, mlp, module) for block in module.get_submodule(blocks).children()}
    return "" if "" in found else _only("the projection out of an MLP", sorted(found), module)


def _out_of_mlp(block: nn.Module, mlp: str, module: nn.Module) -> str:
    """The projection out of an MLP; empty where several experts have one each."""
    where = f"{mlp}." if mlp else ""
    linear = [f"{where}{name}" for name, child in block.get_submodule(mlp).named_modules() if is_linear_map(child)]
    if mlp and (not linear or any(_is_inside_a_list(path) for path in linear) or "expert" in _parts(block, mlp)):
        return ""
    own = [path for path in linear if mlp or "." not in path]
    return _only("the projection out of an MLP", _named(own, _OUT_OF_MLP), module)


def _parts(block: nn.Module, mlp: str) -> str:
    return " ".join(name for name, _ in block.get_submodule(mlp).named_modules())


def _post_norms(block: nn.Module) -> dict[str, str]:
    """Norms between a part and the residual stream, by the name that says so where there is one for the MLP."""
    names = {name for name, _ in block.named_children()}
    for attention, mlp in (
        ("post_attention_layernorm", "post_feedforward_layernorm"),
        ("post_self_attn_layernorm", "post_mlp_layernorm"),
    ):
        if {attention, mlp} <= names:
            return {"post_attention_norm": attention, "post_mlp_norm": mlp}
    return {}
