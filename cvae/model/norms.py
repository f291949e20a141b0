"""BatchNorm in a training step: what the convolution before it need not do, and batches counted without a launch."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


class BatchNorms:
    """The BatchNorms of a model that trains, and the convolutions that are known to feed them alone (see ``_followed``).

    BatchNorm subtracts the batch's mean, and with it whatever bias the convolution before it has added. So a training step
    neither adds such a bias nor computes its gradient. The running mean, which prediction subtracts, holds it all the same.
    A norm that stays in eval mode when the model trains subtracts no batch's mean.

    An optimizer passes over a parameter without a gradient: the bias gets no weight decay, no moments and no share in a
    gradient's norm, and the moments that an old checkpoint has of it stay as they are. (Its gradient would be rounding, but
    Adam divides by a gradient's size: the bias would go as far as any weight, and the running mean would follow late.)
    """

    def __init__(self, model: nn.Module) -> None:
        before = model.training
        model.train()
        self._norms: list[Any] = [
            each
            for each in model.modules()
            if is_plain_norm(each) and each.training and each.track_running_stats and each.momentum is not None
        ]
        model.train(before)
        self._cancelled: list[tuple[Any, Any]] = [
            (conv, norm) for conv, norm in _followed(model) if norm in self._norms and conv.bias is not None
        ]
        for conv, _ in self._cancelled:
            conv.bias.requires_grad_(False)  # else DDP waits for its gradient

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The context of a training step's forward pass; outside of it, all is as PyTorch's layers leave it."""
        with (
            _counted([norm for norm in self._norms if norm.training]),
            _without_biases([(conv, norm) for conv, norm in self._cancelled if norm.training]),
        ):
            yield


@contextlib.contextmanager
def _counted(norms: list[Any]) -> Iterator[None]:
    """Count batches on the host, which needs no kernel for it."""
    counters = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long)
    try:
        yield
    finally:
        calls = [int(norm.num_batches_tracked) for norm in norms]
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter
        if norms:
            torch._foreach_add_(counters, calls)


@contextlib.contextmanager
def _without_biases(cancelled: list[tuple[Any, Any]]) -> Iterator[None]:
    """The running mean is one of batches' means: as long as they lack the bias, so does it."""
    biases: list[Any] = [conv.bias for conv, _ in cancelled]
    means = [norm.running_mean for _, norm in cancelled]
    without: Any = torch._foreach_sub(means, biases) if means else []  # a copy: autograd looks after it
    for (conv, norm), mean in zip(cancelled, without, strict=True):
        conv.bias, norm.running_mean = None, mean
    try:
        yield
    finally:
        for (conv, norm), bias, mean in zip(cancelled, biases, means, strict=True):
            conv.bias, norm.running_mean = bias, mean
        if means:
            torch._foreach_copy_(means, torch._foreach_add(without, biases))


def _followed(model: nn.Module) -> list[tuple[Any, Any]]:
    """The convolutions whose output goes to another layer and nowhere else, with that layer.

    A module says so by ``in_order``: of a Sequential it is not known, since its layers may be called from elsewhere too. What
    is no layer of PyTorch's own, has a hook, or stands in several places may do anything with the output.
    """
    orders = [each.in_order() for each in model.modules() if isinstance(each, InOrder)]
    pairs = [(layer, after) for order in orders for layer, after in pairwise(order) if isinstance(layer, _ConvNd)]
    places = Counter(id(layer) for order in orders for layer in order)
    owners = Counter(id(own) for each in model.modules() for own in each._parameters.values() if own is not None)
    return [
        (conv, norm)
        for conv, norm in pairs
        if type(conv) in (nn.Conv2d, nn.ConvTranspose2d)
        and not _hooks(conv)
        and places[id(conv)] == places[id(norm)] == owners[id(conv.bias)] == 1
    ]


@runtime_checkable
class InOrder(Protocol):
    """A module whose ``in_order`` are layers that a map goes through one after the other; none of them is called elsewhere."""

    def in_order(self) -> list[nn.Module]: ...


class Chain(nn.Sequential):
    """Layers that are called one after the other, and from nowhere else."""

    def in_order(self) -> list[nn.Module]:
        """The layers."""
        return [*self]


def is_plain_norm(module: nn.Module) -> bool:
    """Whether it is a BatchNorm that does what PyTorch's does; a subclass or a hook may do anything."""
    exact = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) or getattr(type(module), "as_plain", False)
    return exact and not _hooks(module)


def _hooks(module: nn.Module) -> bool:
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))
