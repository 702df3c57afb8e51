"""The evaluation of CounterFact edits as Meng et al. (2022) publish it, written naively from its formulas.

One forward pass a prompt and target, no batch, no packing. A target follows its prefix after one space; the number of
tokens of the prefix alone says where the target begins. ``x(o|p) = -(1/T) sum_j log p(o_j | p, o_<j)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


@torch.no_grad()
def target_logprobs(module: Any, tokenizer: Any, prefix: str, target: str) -> tuple[torch.Tensor, list[int]]:
    """Log-probabilities ``[token, vocabulary]`` where each token of the target is decided, and those tokens."""
    prefix_len = len(tokenizer(prefix).input_ids)
    ids = tokenizer(f"{prefix} {target}").input_ids
    logits = module(torch.tensor([ids])).logits[0].float()
    target_ids = ids[prefix_len:]
    rows = [torch.log_softmax(logits[prefix_len + j - 1], dim=0) for j in range(len(target_ids))]
    return torch.stack(rows), target_ids


def said_of(module: Any, tokenizer: Any, prefix: str, target: str) -> tuple[float, list[bool]]:
    """``x(target | prefix)``, and whether each token of the target is the likeliest one."""
    logprobs, ids = target_logprobs(module, tokenizer, prefix, target)
    nll = -sum(float(row[token]) for row, token in zip(logprobs, ids, strict=True)) / len(ids)
    return nll, [int(row.argmax()) == token for row, token in zip(logprobs, ids, strict=True)]


def evaluated(module: Any, tokenizer: Any, fact: Any) -> dict[str, list[dict[str, Any]]]:
    """What is said after every prompt of a record, by kind of prompt; the true value first."""
    kinds = {
        "rewrite": [(fact.prompt, fact.old)],
        "paraphrase": [(prompt, fact.old) for prompt in fact.paraphrases],
        "neighborhood": [(neighbor.prompt, neighbor.value) for neighbor in fact.neighbors],
    }
    record: dict[str, list[dict[str, Any]]] = {}
    for kind, prompts in kinds.items():
        record[kind] = []
        for prompt, true in prompts:
            x_true, right_true = said_of(module, tokenizer, prompt, true)
            x_new, right_new = said_of(module, tokenizer, prompt, fact.new)
            record[kind].append({"true": x_true, "new": x_new, "right_true": right_true, "right_new": right_new})
    return record


def summarized(records: list[dict[str, list[dict[str, Any]]]]) -> dict[str, float]:
    """Mean over records of the mean over prompts of every score."""
    scores: dict[str, list[float]] = {}

    def enter(name: str, values: list[float]) -> None:
        if values:
            scores.setdefault(name, []).append(float(np.mean(values)))

    for record in records:
        for kind, letter in (("rewrite", "E"), ("paraphrase", "P")):
            enter(f"{letter}S", [x["new"] < x["true"] for x in record[kind]])
            enter(f"{letter}M", [np.exp(-x["new"]) - np.exp(-x["true"]) for x in record[kind]])
            enter(f"{letter}-all", [all(x["right_new"]) for x in record[kind]])
            enter(f"{letter}-mean", [np.mean(x["right_new"]) for x in record[kind]])
        enter("NS", [x["true"] < x["new"] for x in record["neighborhood"]])
        enter("NM", [np.exp(-x["true"]) - np.exp(-x["new"]) for x in record["neighborhood"]])
        enter("N-all", [all(x["right_true"]) for x in record["neighborhood"]])
        enter("N-mean", [np.mean(x["right_true"]) for x in record["neighborhood"]])
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    three = [means[name] for name in ("ES", "PS", "NS")]
    means["S"] = 0.0 if 0 in three else 3 / sum(1 / value for value in three)
    return means
