"""What every layer needs in a training step, done for all layers at once: on a GPU each small operation costs a launch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cvae.model.backbones import SkipStage


class BatchNorms:
    """The BatchNorms of a model that trains, and the convolutions right before them.

    BatchNorm subtracts the batch's mean, and with it whatever bias the convolution before it has added. So a training step
    neither adds such a bias nor computes its gradient. The running mean, which prediction subtracts, holds it all the same.

    An optimizer passes over a parameter without a gradient: the bias gets no weight decay, no moments and no share in a
    gradient's norm, and the moments that an old checkpoint has of it stay as they are. (Its gradient would be rounding, but
    Adam divides by a gradient's size: the bias would go as far as any weight, and the running mean would follow late.)
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms: list[Any] = [
            each for each in model.modules() if isinstance(each, _BatchNorm) and each.momentum is not None
        ]
        self._cancelled: list[tuple[Any, Any]] = [
            (conv, norm) for conv, norm in _followed(model) if norm in self._norms and conv.bias is not None
        ]
        for conv, _ in self._cancelled:
            conv.bias.requires_grad_(False)  # else DDP waits for its gradient

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The context of a training step's forward pass; outside of it, all is as PyTorch's layers leave it."""
        norms = [norm for norm in self._norms if norm.training]
        counters = [norm.num_batches_tracked for norm in norms]
        cancelled = [(conv, norm) for conv, norm in self._cancelled if norm.training]
        biases: list[Any] = [conv.bias for conv, _ in cancelled]
        means = [norm.running_mean for _, norm in cancelled]
        # The running mean is one of batches' means: as long as they lack the bias, so does it. A copy: autograd looks after it.
        without: Any = torch._foreach_sub(means, biases) if means else []
        for (conv, norm), mean in zip(cancelled, without, strict=True):
            conv.bias, norm.running_mean = None, mean
        for norm in norms:
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long)  # on the host, which needs no kernel to count
        try:
            yield
        finally:
            calls = [int(norm.num_batches_tracked) for norm in norms]
            for norm, counter in zip(norms, counters, strict=True):
                norm.num_batches_tracked = counter
            for (conv, norm), bias, mean in zip(cancelled, biases, means, strict=True):
                conv.bias, norm.running_mean = bias, mean
            if norms:
                torch._foreach_add_(counters, calls)
            if means:
                torch._foreach_copy_(means, torch._foreach_add(without, biases))


def _followed(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The convolutions whose output goes to a norm and nowhere else, with that norm."""
    for each in model.modules():
        if isinstance(each, SkipStage) and isinstance(each.rest, nn.Sequential):
            yield each.conv, each.rest[0]
        elif type(each) is nn.Sequential:
            yield from ((layer, after) for layer, after in pairwise(each) if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)))
