"""ROME, r-ROME, MEMIT, EMMET and AlphaEdit as published, written naively: what mechmask is held against, and timed by.

One fact at a time, whole prompts through the whole model, logits at every position, a second pass for every layer, and
dense systems as wide as a key. Plain torch and transformers; nothing of mechmask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

PROJECTIONS = {
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gptj": "transformer.h.{}.mlp.fc_out",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.{}.fc2",
    "phi": "model.layers.{}.mlp.fc2",
}
BLOCKS = {
    "gpt2": "transformer.h.{}",
    "gptj": "transformer.h.{}",
    "gpt_neox": "gpt_neox.layers.{}",
    "opt": "model.decoder.layers.{}",
}


@dataclass
class Settings:
    """Published names: v_num_grad_steps, v_lr, v_weight_decay, clamp_norm_factor, kl_factor."""

    steps: int = 20
    lr: float = 0.5
    decay: float = 0.5
    clamp: float = 4.0
    kl: float = 0.0625
    stop: float = 0.05


def projection_of(module, layer):
    return module.get_submodule(
        PROJECTIONS.get(module.config.model_type, "model.layers.{}.mlp.down_proj").format(layer)
    )


def block_of(module, layer):
    return module.get_submodule(BLOCKS.get(module.config.model_type, "model.layers.{}").format(layer))


def subject_end(tokenizer, text, subject):
    """The token that holds the last character of the subject's last mention as a word of its own."""
    padded, word = f" {text} ", f" {subject} "
    last = padded.rindex(word) + len(subject) - 1 if word in padded else text.rindex(subject) + len(subject) - 1
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return max(i for i, (start, stop) in enumerate(spans) if start <= last < stop)


def framed(prompt, context):
    return f"{context}. {prompt}" if context else prompt


def target_ids(tokenizer, prompt, target):
    """Ids by concatenation: what follows the prompt's own."""
    return tokenizer(f"{prompt} {target}")["input_ids"][len(tokenizer(prompt)["input_ids"]) :]


@contextmanager
def hooked(child: torch.nn.Module, function: Callable):
    def hook(_module, args, output):
        found = function(args, output[0] if isinstance(output, tuple) else output)
        if found is None:
            return None
        return (found, *output[1:]) if isinstance(output, tuple) else found

    handle = child.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def run(module, rows):
    """Logits of rows of ids, padded on the right."""
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return module(input_ids=ids, attention_mask=mask, use_cache=False).logits


def value_of(module, tokenizer, fact, layer, contexts, place, settings):
    """``(initial, delta)``: the search of rome/compute_v.py (place ``mlp``) and memit/compute_z.py (``residual``)."""
    prompts = [framed(fact.prompt, context) for context in ("", *contexts)]
    targets = [target_ids(tokenizer, prompt, fact.new) for prompt in prompts]
    rows = [[*tokenizer(p)["input_ids"], *t[:-1]] for p, t in zip(prompts, targets, strict=True)]
    ends = [subject_end(tokenizer, prompt, fact.subject) for prompt in prompts]
    essence = f"{fact.subject} is a"
    rows.append(tokenizer(essence)["input_ids"])
    ends.append(subject_end(tokenizer, essence, fact.subject))
    labels = torch.full((len(prompts), max(map(len, rows))), -100)
    for i, (row, target) in enumerate(zip(rows, targets, strict=False)):
        for j, token in enumerate(target):
            labels[i, len(row) - len(target) + j] = token
    places = torch.arange(len(rows)), torch.tensor(ends)
    child = projection_of(module, layer) if place == "mlp" else block_of(module, layer)
    start = {}

    def move(_args, output):
        moved = output.reshape(len(rows), -1, output.shape[-1]).clone()  # OPT's MLP takes all tokens in one row
        start.setdefault("value", moved[0, ends[0]].detach().clone())
        moved[places] = moved[places] + delta
        return moved.view(output.shape)

    delta = torch.zeros(module.config.get_text_config().hidden_size, requires_grad=True, dtype=module.dtype)
    optimizer = torch.optim.Adam([delta], lr=settings.lr)
    reference = None
    for iteration in range(settings.steps):
        optimizer.zero_grad()
        with hooked(child, move):
            logits = run(module, rows)
        after = torch.log_softmax(logits[-1, ends[-1]], -1)
        reference = after.detach().clone() if reference is None else reference
        kl = torch.nn.functional.kl_div(reference[None], after[None], log_target=True, reduction="batchmean")
        logprobs = torch.log_softmax(logits[:-1], -1)
        chosen = torch.where(labels != -100, labels, 0)[..., None]
        picked = torch.where(labels != -100, logprobs.gather(2, chosen)[..., 0], 0)
        nll = (-picked.sum(1) / torch.tensor([len(target) for target in targets])).mean()
        loss = nll + settings.kl * kl + settings.decay * delta.norm() / start["value"].norm() ** 2
        if loss < settings.stop or iteration == settings.steps - 1:
            break
        loss.backward()
        optimizer.step()
        longest = settings.clamp * start["value"].norm()
        if delta.norm() > longest:
            with torch.no_grad():
                delta.mul_(longest / delta.norm())
    return start["value"], delta.detach()


@torch.no_grad()
def read_at(module, tokenizer, prompts, subject, child, *, inputs):
    """What enters or leaves a module at the subject's last token, a prompt at a time."""
    found = []
    for prompt in prompts:
        end = subject_end(tokenizer, prompt, subject)
        kept = {}

        def keep(args, output, kept=kept, end=end):
            whole = args[0] if inputs else output
            kept["at"] = whole.reshape(-1, whole.shape[-1])[end].clone()

        with hooked(child, keep):
            run(module, [tokenizer(prompt)["input_ids"]])
        found.append(kept["at"].double())
    return torch.stack(found)


@torch.no_grad()
def add_to(module, layer, update):
    """W += update ``[width, key]``, by the module's type."""
    projection = projection_of(module, layer)
    stored = update.T if type(projection).__name__ == "Conv1D" else update
    projection.weight += stored.to(projection.weight.dtype)


def rome(module, tokenizer, fact, layer, contexts, moment, settings, *, averaged=False):
    """The update ``[width, key]`` of rome/rome_main.py; ``averaged``: of «Rebuilding ROME»."""
    initial, delta = value_of(module, tokenizer, fact, layer, contexts, "mlp", settings)
    prompts = [framed(fact.prompt, context) for context in ("", *contexts)]
    child = projection_of(module, layer)
    keys = read_at(module, tokenizer, prompts, fact.subject, child, inputs=True)
    values = read_at(module, tokenizer, prompts, fact.subject, child, inputs=False)
    direction = torch.linalg.inv(moment) @ keys.mean(0)
    key, value = (keys.mean(0), values.mean(0)) if averaged else (keys[0], values[0])
    right = ((initial + delta).double() - value) / (key @ direction)
    return torch.outer(right, direction)


def spread(module, tokenizer, facts, layers, contexts, settings, solve: Callable):
    """Updates ``{layer: [width, key]}`` of memit_main.py with any ``solve(layer, K, R)``; the module is left edited."""
    targets = torch.stack(
        [sum(value_of(module, tokenizer, fact, layers[-1], contexts, "residual", settings)).double() for fact in facts]
    )
    updates = {}
    for number, layer in enumerate(layers):
        keys, standing = [], []
        for fact in facts:
            prompts = [framed(fact.prompt, context) for context in ("", *contexts)]
            each = read_at(module, tokenizer, prompts, fact.subject, projection_of(module, layer), inputs=True)
            keys.append(torch.stack([each[0], each[1:].mean(0)]).mean(0) if contexts else each[0])
            block = block_of(module, layers[-1])
            standing.append(read_at(module, tokenizer, prompts[:1], fact.subject, block, inputs=False)[0])
        residuals = (targets - torch.stack(standing)).T / (len(layers) - number)
        updates[layer] = solve(layer, torch.stack(keys).T, residuals)
        add_to(module, layer, updates[layer])
    return updates


def memit_solve(moments, weight):
    def solve(layer, keys, residuals):
        return residuals @ torch.linalg.solve(weight * moments[layer] + keys @ keys.T, keys).T

    return solve


def emmet_solve(moments, ridge):
    def solve(layer, keys, residuals):
        inverse = torch.linalg.inv(moments[layer])
        inner = keys.T @ inverse @ keys + ridge * torch.eye(keys.shape[1], dtype=keys.dtype)
        return residuals @ torch.linalg.inv(inner) @ keys.T @ inverse

    return solve


def projectors(moments, threshold):
    found = {}
    for layer, moment in moments.items():
        left, sizes, _ = torch.linalg.svd(moment)
        free = left[:, sizes < threshold]
        found[layer] = free @ free.T
    return found


def alphaedit_solve(projector, ridge, past=None):
    """``past``: Kp Kp' of earlier edits by layer."""

    def solve(layer, keys, residuals):
        p = projector[layer]
        earlier = past[layer] if past else torch.zeros_like(p)
        system = p @ (keys @ keys.T + earlier) + ridge * torch.eye(len(p), dtype=p.dtype)
        return torch.linalg.solve(system, p @ keys @ residuals.T).T

    return solve


def averaged_keys(module, tokenizer, facts: Sequence, layer, contexts):
    """K ``[key, fact]`` under the present weights, as ``spread`` reads it."""
    keys = []
    for fact in facts:
        prompts = [framed(fact.prompt, context) for context in ("", *contexts)]
        each = read_at(module, tokenizer, prompts, fact.subject, projection_of(module, layer), inputs=True)
        keys.append(torch.stack([each[0], each[1:].mean(0)]).mean(0) if contexts else each[0])
    return torch.stack(keys).T
