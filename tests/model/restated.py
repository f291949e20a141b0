"""Comparing our nets with the plainly written ones of ``scripts/report_loop.py``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

RELATIVE = 1e-9  # in float64
NF_SMALL = 2  # stands for the paper's 64 where only the rollout is in question
BACKBONES = ["dcgan64", pytest.param("vgg64", marks=pytest.mark.slow)]  # the deeper one takes twice as long


def randomise(module: nn.Module, seed: int) -> None:
    """Weights under which every layer is alive, so that no difference hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            for name, value in layer.named_parameters(recurse=False):
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                if value.dim() > 1:
                    value.copy_(noise / value[0].numel() ** 0.5)
                else:
                    value.copy_(0.1 * noise + (isinstance(layer, nn.BatchNorm2d) and name == "weight"))


def paired(a: nn.Module, b: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """The entries of both state dicts, by position; their shapes must agree."""
    entries_a, entries_b = a.state_dict(keep_vars=True), b.state_dict(keep_vars=True)
    assert [value.shape for value in entries_a.values()] == [value.shape for value in entries_b.values()]
    return [(name, x, y) for (name, x), y in zip(entries_a.items(), entries_b.values(), strict=True)]


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for _, x, y in paired(source, target):
            y.copy_(x)


def distance(a: Tensor, b: Tensor, least: float = 0.0) -> float:
    """Norm of the difference over the norm of ``b``, or over ``least`` if that is larger."""
    assert a.shape == b.shape
    difference = (a.double() - b.double()).norm().item()
    return difference / max(b.double().norm().item(), least) if difference else 0.0


def assert_close(values: list[tuple[str, Tensor, Tensor]], relative: float = RELATIVE) -> None:
    """Each tensor agrees; a bias is measured beside its layer's weight.

    For a bias before a BatchNorm has no gradient in train mode but rounding, which Adam then makes a step of 1e-10.
    """
    norms = {name: y.double().norm().item() for name, _, y in values}
    least = {name: norms.get(name.removesuffix("bias") + "weight", 0.0) for name in norms if name.endswith("bias")}
    far = {name: d for name, x, y in values if not (d := distance(x, y, least.get(name, 0.0))) <= relative}
    assert not far, far


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    """Weights and BatchNorm statistics agree, tensor by tensor."""
    assert_close([(name, x.detach(), y.detach()) for name, x, y in paired(a, b)])


def assert_same_gradients(a: nn.Module, b: nn.Module, relative: float = RELATIVE) -> None:
    """Every gradient agrees, tensor by tensor, and is there."""
    pairs = [(name, x, y) for name, x, y in paired(a, b) if x.requires_grad]
    assert all(x.grad is not None and y.grad is not None for _, x, y in pairs)
    assert_close([(name, x.grad, y.grad) for name, x, y in pairs], relative)


class WeightGradients(TorchDispatchMode):
    """Counts the operations that compute a weight's gradient."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution_backward.default and args[-1][1]
        return func(*args, **(kwargs or {}))
