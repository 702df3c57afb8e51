"""Where the parts of a family's models are: dotted paths, and the settings by which what comes out is multiplied."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Dotted paths in a module; those below ``blocks`` are relative to one block.

    Attributes:
        blocks, final_norm, attention, attention_output, mlp, mlp_output: where they are. ``mlp`` is empty where the
            MLP's layers are the block's own, ``mlp_output`` where no single projection leads out of the MLP, as in a
            mixture of experts.
        post_attention_norm, post_mlp_norm: what an output passes before it is added to the residual stream, if it does.
        logit_factor, logit_divisor: settings by which logits are multiplied and divided, if there are any.
        residual_factor: the setting by which what a block adds to the residual stream is multiplied, if there is one.
        adds_more: what a block adds to the residual stream besides its attention and its MLP, or adds otherwise; empty
            where it adds those two alone, so that a margin is a sum over them.
    """

    blocks: str
    final_norm: str
    mlp_output: str
    attention: str
    attention_output: str
    mlp: str = "mlp"
    post_attention_norm: str = ""
    post_mlp_norm: str = ""
    logit_factor: str = ""
    logit_divisor: str = ""
    residual_factor: str = ""
    adds_more: str = ""
