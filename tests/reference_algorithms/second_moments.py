"""``E[k k^T]`` written naively: one sequence at a time through the whole module in float64, by a plain forward hook."""

import copy

import torch


def second_moment(module, projection, sequences, n_left_out):
    """Mean over the tokens of all sequences but their beginnings, of what enters the layer of that name.

    Args:
        module: a transformers causal language model.
        projection: dotted name of a layer.
        sequences: token ids of each.
        n_left_out: tokens at the beginning of each that are read and do not count.
    """
    module = copy.deepcopy(module).double().eval()
    keys = []

    def keep(_layer, inputs, _output):
        keys.append(inputs[0].flatten(0, -2)[n_left_out:])

    handle = module.get_submodule(projection).register_forward_hook(keep)
    with torch.no_grad():
        for ids in sequences:
            module(input_ids=torch.tensor([list(ids)]))
    handle.remove()
    total, n = 0, 0
    for rows in keys:
        for key in rows:
            total = total + torch.outer(key, key)
            n += 1
    return total / n, n
