"""Products with prepacked weights are the plain ones, forward and backward, and nothing of them stays."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mechmask.models import prepack
from mechmask.models.prepack import prepacked

WIDTHS = [(16, 16), (16, 48), (48, 16), (1, 7), (33, 5)]


def frozen(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def layers(n_in, n_out):
    return [frozen(nn.Linear(n_in, n_out)), frozen(nn.Linear(n_in, n_out, bias=False)), frozen(Conv1D(n_out, n_in))]


def exactly(layer, inputs, upstream):
    """Output and the inputs' gradient, in float64 from the definition."""
    weight = layer.weight.double()
    weight = weight.T if isinstance(layer, Conv1D) else weight
    output = inputs.double() @ weight.T
    return output if layer.bias is None else output + layer.bias.double(), upstream.double() @ weight


@pytest.mark.parametrize(("n_in", "n_out"), WIDTHS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,), (0, 3), (300,)])
def test_output_and_gradient_are_those_of_the_product(n_in, n_out, shape):
    for layer in layers(n_in, n_out):
        inputs, upstream = torch.randn(*shape, n_in, requires_grad=True), torch.randn(*shape, n_out)
        with prepacked([layer]):
            output = layer(inputs)
        assert type(output.grad_fn).__name__ == "_ProductBackward"
        (gradient,) = torch.autograd.grad(output, inputs, upstream)
        for found, exact in zip((output, gradient), exactly(layer, inputs.detach(), upstream), strict=True):
            torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_inputs_and_gradients_may_lie_in_any_order():
    for layer in layers(6, 4):
        inputs, upstream = torch.randn(6, 5).T.requires_grad_(), torch.randn(4, 5).T
        with prepacked([layer]):
            output = layer(inputs)
        (gradient,) = torch.autograd.grad(output, inputs, upstream)
        for found, exact in zip((output, gradient), exactly(layer, inputs.detach(), upstream), strict=True):
            torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_hooks_see_what_they_saw():
    layer, seen = frozen(nn.Linear(3, 2)), []
    layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output) or output + 1)
    with prepacked([layer]):
        output = layer(torch.ones(1, 3))
    torch.testing.assert_close(output, seen[0] + 1)


def test_afterwards_layers_multiply_as_before_and_by_what_their_weight_is_then():
    layer, inputs = frozen(nn.Linear(8, 8)), torch.randn(3, 8)
    before = layer(inputs)
    with pytest.raises(ZeroDivisionError), prepacked([layer]):
        raise ZeroDivisionError
    assert torch.equal(layer(inputs), before)
    assert "forward" not in vars(layer)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(layer(inputs), layer.bias.expand(3, -1))


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def test_what_computes_otherwise_is_left_alone():
    replaced = frozen(nn.Linear(4, 4))
    replaced.forward = lambda inputs: inputs
    others = [
        replaced,
        frozen(Doubled(4, 4)),
        frozen(nn.Linear(4, 4).double()),
        frozen(nn.Linear(4, 4).bfloat16()),
        nn.Linear(4, 4),
        nn.LayerNorm(4),
        nn.Dropout(),
    ]
    forwards = [vars(layer).get("forward") for layer in others]
    with prepacked(others):
        assert [vars(layer).get("forward") for layer in others] == forwards
    assert [vars(layer).get("forward") for layer in others] == forwards


def test_a_layer_that_asks_for_a_gradient_of_its_bias_alone_gets_it():
    layer = frozen(nn.Linear(4, 4))
    layer.bias.requires_grad_(True)
    with prepacked([layer]):
        layer(torch.ones(1, 4)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.ones(4))


def test_a_layer_that_is_named_twice_is_given_back_once():
    layer = frozen(nn.Linear(4, 4))
    with prepacked([layer, layer]), prepacked([layer]):
        layer(torch.ones(1, 4))
    assert "forward" not in vars(layer)


def test_copies_take_no_more_than_their_room(monkeypatch):
    several = [frozen(nn.Linear(8, 8)) for _ in range(5)]
    monkeypatch.setattr(prepack, "_MAX_BYTES", 2 * 2 * 8 * 8 * 4)
    with prepacked(several):
        assert ["forward" in vars(layer) for layer in several] == [True, True, False, False, False]


def test_without_onednn_weights_stay_as_they_lie(monkeypatch):
    layer = frozen(nn.Linear(8, 8))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with prepacked([layer]):
        assert "forward" not in vars(layer)
