"""Products with prepacked weights are the plain ones, forward and backward, and nothing of them stays."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from mechmask.models import prepack
from mechmask.models.computed import attached
from mechmask.models.prepack import prepacked

WIDTHS = [(16, 16), (16, 48), (48, 16), (1, 7), (33, 5)]

pytestmark = pytest.mark.skipif(not prepack._is_right(), reason="torch has no such product here")


def frozen(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def layers(n_in, n_out):
    return [frozen(nn.Linear(n_in, n_out)), frozen(nn.Linear(n_in, n_out, bias=False)), frozen(Conv1D(n_out, n_in))]


def exactly(layer, inputs, upstream):
    """Output and the inputs' gradient, in float64 from the definition."""
    weight = layer.weight.detach().double()
    weight = weight.T if isinstance(layer, Conv1D) else weight
    output = inputs.detach().double() @ weight.T
    return output if layer.bias is None else output + layer.bias.double(), upstream.double() @ weight


def by_copy(layer, inputs):
    """What the layer gives where it has been used so often that a copy of its weight is worth while."""
    for _ in range(prepack._WORTH_A_COPY):
        layer(inputs)
    return layer(inputs)


def is_by_copy(output):
    return type(output.grad_fn).__name__ == "_ProductBackward"


def require_exact(layer, inputs, upstream):
    with prepacked([layer]):
        output = by_copy(layer, inputs)
    assert is_by_copy(output)
    (gradient,) = torch.autograd.grad(output, inputs, upstream)
    for found, exact in zip((output, gradient), exactly(layer, inputs, upstream), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n_in", "n_out"), WIDTHS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,), (0, 3), (300,)])
def test_output_and_gradient_are_those_of_the_product(n_in, n_out, shape):
    for layer in layers(n_in, n_out):
        require_exact(layer, torch.randn(*shape, n_in, requires_grad=True), torch.randn(*shape, n_out))


def test_inputs_gradients_weights_and_biases_may_lie_in_any_order():
    for layer in layers(6, 4):
        require_exact(layer, torch.randn(6, 5).T.requires_grad_(), torch.randn(4, 5).T)
        layer.weight = nn.Parameter(torch.randn(layer.weight.shape[::-1]).T, requires_grad=False)
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.randn(4, 3)[:, 1], requires_grad=False)
        require_exact(layer, torch.randn(5, 6, requires_grad=True), torch.randn(5, 4))
    one = frozen(nn.Linear(6, 4))
    one.bias = nn.Parameter(torch.randn(1).expand(4), requires_grad=False)
    require_exact(one, torch.randn(5, 6, requires_grad=True), torch.randn(5, 4))


def test_what_is_used_seldom_is_not_copied():
    layer, inputs = frozen(nn.Linear(3, 2)), torch.ones(1, 3, requires_grad=True)
    with prepacked([layer]):
        outputs = [layer(inputs) for _ in range(prepack._WORTH_A_COPY + 2)]
    assert [is_by_copy(output) for output in outputs] == [False] * prepack._WORTH_A_COPY + [True] * 2


def test_hooks_see_what_they_saw():
    layer, seen = frozen(nn.Linear(3, 2)), []
    layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output) or output + 1)
    with prepacked([layer]):
        output = by_copy(layer, torch.ones(1, 3))
    torch.testing.assert_close(output, seen[-1] + 1)


def test_afterwards_layers_multiply_as_before():
    layer, inputs = frozen(nn.Linear(8, 8)), torch.randn(3, 8)
    before = layer(inputs)
    with pytest.raises(ZeroDivisionError), prepacked([layer]):
        by_copy(layer, inputs)
        raise ZeroDivisionError
    assert torch.equal(layer(inputs), before)
    assert "forward" not in vars(layer)


def _zero(layer):
    with torch.no_grad():
        layer.weight.zero_()


def _replace(layer):
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight), requires_grad=False)


def _shift(layer):
    with torch.no_grad():
        layer.bias.add_(1)


@pytest.mark.parametrize("change", [_zero, _replace, _shift])
def test_a_weight_that_is_changed_meanwhile_is_multiplied_by_as_it_is(change):
    for layer in (frozen(nn.Linear(8, 8)), frozen(Conv1D(8, 8))):
        inputs = torch.randn(3, 8)
        with prepacked([layer]):
            by_copy(layer, inputs)
            change(layer)
            found = layer(inputs)
        torch.testing.assert_close(found, layer(inputs))


def test_a_weight_that_a_hook_makes_anew_is_the_hooks():
    layer = frozen(nn.Linear(8, 8))
    prune.l1_unstructured(layer, "weight", 0.5)
    layer.requires_grad_(False)
    inputs = torch.randn(3, 8)
    with prepacked([layer]):
        by_copy(layer, inputs)
        layer.weight_orig.mul_(2)
        found = layer(inputs)
    assert torch.equal(found, layer(inputs))


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class Marked(nn.Parameter):
    pass


def test_what_computes_otherwise_is_left_alone():
    replaced = frozen(nn.Linear(4, 4))
    replaced.forward = lambda inputs: inputs
    marked = frozen(nn.Linear(4, 4))
    marked.weight = Marked(marked.weight, requires_grad=False)
    biased = frozen(nn.Linear(4, 4))
    biased.bias.requires_grad_(True)
    for layer in (replaced, marked, biased, frozen(Doubled(4, 4)), nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout()):
        inputs = torch.randn(2, 4, requires_grad=True)
        layer.eval()
        before = layer(inputs)
        with prepacked([layer]):
            after = by_copy(layer, inputs)
        assert torch.equal(after, before) and not is_by_copy(after)
    assert "forward" in vars(replaced)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_are_left_alone(dtype):
    layer, inputs = frozen(nn.Linear(4, 4)).to(dtype), torch.randn(2, 4, dtype=dtype, requires_grad=True)
    with prepacked([layer]):
        assert not is_by_copy(by_copy(layer, inputs))


def test_autocast_stays_in_force():
    layer, inputs = frozen(nn.Linear(4, 4)), torch.randn(2, 4)
    with prepacked([layer]), torch.autocast("cpu", torch.bfloat16):
        assert by_copy(layer, inputs).dtype == torch.bfloat16


def test_arguments_may_be_named():
    for layer, name in ((frozen(nn.Linear(4, 4)), "input"), (frozen(Conv1D(4, 4)), "x")):
        inputs = torch.randn(2, 4)
        with prepacked([layer]):
            by_copy(layer, inputs)
            torch.testing.assert_close(layer(**{name: inputs}), layer(inputs))


def test_a_forward_that_another_puts_in_place_inside_stays():
    layer = frozen(nn.Linear(4, 4))
    with prepacked([layer]):
        layer.forward = other = lambda inputs: inputs
    assert layer.forward is other


def test_a_layer_that_is_named_twice_is_given_back_once():
    layer = frozen(nn.Linear(4, 4))
    with prepacked([layer, layer]), prepacked([layer]):
        by_copy(layer, torch.ones(1, 4))
    assert "forward" not in vars(layer)


def test_copies_take_no_more_than_their_room(monkeypatch):
    small, wide, other, third = (frozen(nn.Linear(8, n_out)) for n_out in (8, 30, 8, 8))
    monkeypatch.setattr(prepack, "_MAX_BYTES", 2 * 2 * 8 * 8 * 4)
    inputs = torch.ones(1, 8, requires_grad=True)
    with prepacked([small, wide, other, third]):
        taken = [is_by_copy(by_copy(layer, inputs)) for layer in (small, wide, other, third)]
    assert taken == [True, False, True, False]


def test_without_memory_for_a_copy_it_goes_on_without(monkeypatch):
    layer, inputs = frozen(nn.Linear(8, 8)), torch.ones(1, 8, requires_grad=True)

    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with prepacked([layer]):
        monkeypatch.setattr(prepack, "_Copies", full)
        assert not is_by_copy(by_copy(layer, inputs))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("what", ["missing", "unwanted", "wrong"])
def test_without_a_product_that_is_right_weights_stay_as_they_lie(monkeypatch, what):
    layer, wanted = frozen(nn.Linear(8, 8)), contextlib.nullcontext()
    if what == "missing":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elif what == "unwanted":
        wanted = torch.backends.mkldnn.flags(enabled=False)
    else:
        monkeypatch.setattr(prepack, "_multiplied", lambda inputs, *_: inputs[:, :1].expand(-1, 33))
        prepack._multiplies.cache_clear()
    with wanted, prepacked([layer]):
        assert "forward" not in vars(layer)
    prepack._multiplies.cache_clear()


def test_what_a_layer_computes_with_is_the_same_inside():
    layer = frozen(nn.Linear(4, 4))
    before = attached("layer", layer)
    with prepacked([layer]):
        by_copy(layer, torch.ones(1, 4))
        assert attached("layer", layer) == before
