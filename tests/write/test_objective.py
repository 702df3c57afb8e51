"""The loss on a value's tokens equals each example read alone by the plain model."""

from __future__ import annotations

import torch

from mechmask.models.routes import encode_examples
from mechmask.write.objective import target_nll, targets


def test_targets_of_a_batch_equal_each_example_alone(tiny, family, facts, tokenizer):
    model = tiny(family)
    examples = facts.contradiction_examples()
    batch = targets(encode_examples(tokenizer, examples))
    with torch.no_grad():
        together = target_nll(model, batch)
    assert batch.labels == tuple(example.fact_id for example in examples)
    for index, example in enumerate(examples):
        prompt, whole = (
            tokenizer(example.prompt)["input_ids"],
            tokenizer(f"{example.prompt} {example.value}")["input_ids"],
        )
        with torch.no_grad():
            logprobs = model.module(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        alone = torch.stack([-logprobs[i - 1, whole[i]] for i in range(len(prompt), len(whole))])
        mine = together[batch.owner == index]
        assert mine.shape == alone.shape
        assert torch.allclose(mine, alone, atol=2e-4), example


def test_gradients_reach_the_weights(tiny, facts, tokenizer):
    model = tiny("llama")
    target_nll(model, targets(encode_examples(tokenizer, facts[:2].install_examples()))).mean().backward()
    assert model.module.model.layers[0].mlp.down_proj.weight.grad.abs().sum() > 0
