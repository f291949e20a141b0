"""The gradient of a weight that several convolutions use is autograd's, by one operation for maps of one size."""

from __future__ import annotations

import pytest
import torch
from restated import WeightGradients
from torch import Tensor, nn

from cvae.model.deferred import deferred

SHAPES = [(2, 4, 8, 8), (3, 4, 8, 8), (2, 4, 5, 7)]
LAYERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "strided and padded": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "unequal sides": lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0)),
    "dilated groups without a bias": lambda: nn.Conv2d(4, 6, 2, dilation=2, groups=2, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, output_padding=1),
    "transposed groups": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2),
}


def gradients(layer: nn.Module, maps: list[Tensor], weight: Tensor) -> tuple[list[Tensor], int]:
    """Of the parameters and of the first map, for outputs that are not all used alike."""
    own, layer._parameters["weight"] = layer.weight, weight
    outs = [layer(x) for x in maps]
    layer._parameters["weight"] = own
    total = sum((k + 1) * out.sin().sum() for k, out in enumerate(outs))
    with WeightGradients() as found:
        of = torch.autograd.grad(total, [own, *([] if layer.bias is None else [layer.bias]), maps[0]])
    return [*of], found.count


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["", "channels last"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_sum_of_the_uses(name, layout):
    torch.manual_seed(0)
    layer = LAYERS[name]().double().to(memory_format=layout)
    maps = [torch.randn(shape).double().to(memory_format=layout) for shape in SHAPES]
    maps[0].requires_grad_()
    plain, each = gradients(layer, maps, layer.weight)
    ours, together = gradients(layer, maps, deferred(layer.weight))
    assert (each, together) == (3, 2)
    assert [x.shape for x in ours] == [x.shape for x in plain]
    assert max((a - b).abs().max() for a, b in zip(ours, plain, strict=True)) < 1e-12


def test_other_uses_of_the_weight_count_as_well():
    layer = LAYERS["plain"]().double()
    x = torch.randn(2, 4, 8, 8).double()
    grads = []
    for weight in (layer.weight, deferred(layer.weight)):
        out = nn.functional.conv2d(x, weight).sum() + (weight**2).sum() + nn.functional.conv2d(x, weight, padding="same").sum()
        out = out + nn.functional.conv2d(x[0], weight).sin().sum()
        grads.append(torch.autograd.grad(out, layer.weight)[0])
    torch.testing.assert_close(grads[1], grads[0])


def test_a_second_backward_pass_gives_the_same():
    layer = LAYERS["plain"]().double()
    weight = deferred(layer.weight)
    x = torch.randn(2, 4, 8, 8).double()
    total = sum(nn.functional.conv2d(x + k, weight).sin().sum() for k in range(2))
    first, second = (torch.autograd.grad(total, layer.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_weight_that_nothing_uses_has_no_gradient():
    layer = LAYERS["plain"]()
    deferred(layer.weight)
    unused = deferred(layer.weight)
    with torch.no_grad():
        out = nn.functional.conv2d(torch.randn(2, 4, 8, 8), unused)
    assert not out.requires_grad
    assert layer.weight.grad is None


def test_under_autocast_maps_are_cast_and_gradients_come_back_in_full():
    layer = nn.Conv2d(4, 6, 3)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    found = []
    for lent in (lambda w: w, deferred):
        with torch.autocast("cpu", torch.bfloat16):
            weight = lent(layer.weight.to(torch.bfloat16))
            out = nn.functional.conv2d(x, weight, layer.bias)
        assert out.dtype == torch.bfloat16
        found.append(torch.autograd.grad(out.float().square().sum(), [layer.weight, layer.bias, x]))
    assert [g.dtype for g in found[1]] == [torch.float32] * 3
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
