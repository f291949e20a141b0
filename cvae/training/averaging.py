"""A moving average of a model's weights: what is validated and kept to predict with, while training goes on without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cvae.errors import require

__all__ = ["Average"]

LEAST = 0.001
WIDEST = 0.28  # just under 1 / sqrt(12), a plain mean over all steps
_Place = tuple[int, tuple[int, ...]]  # where a tensor's values are in memory, and its shape


class Average:
    """Weights averaged over the last part of a run, whatever its length (Karras et al. 2024, power-function averaging).

    After step t the average moves towards the weights by 1 - (1 - 1/t)^(g + 1), so that at any time it is their mean with
    weights proportional to t^g. ``width`` is the standard deviation of that profile over the run so far: 0.05 looks back on
    about the last tenth. With a fixed decay a short run and a long one would need different ones.

    Running statistics of BatchNorm are averaged like the weights, as good as recomputing them (docs/results.md). Counters
    are not.
    """

    def __init__(self, model: nn.Module, width: float) -> None:
        # Where a weight lives, as a module may put another tensor in its place: self.scale = 0.9 * self.scale + ...
        homes = {
            _place(value): (own, name)
            for module in model.modules()
            for own in (module._parameters, module._buffers)
            for name, value in own.items()
            if value is not None
        }
        means: dict[_Place, Tensor] = {}  # weights that have several names (tied ones) count once
        self._mean = {}
        for name, value in model.state_dict().items():
            if isinstance(value, Tensor) and value.is_floating_point() and (place := _place(value)) in homes:
                self._mean[name] = means.setdefault(place, value.clone())
        self._homes: list[tuple[dict[str, Any], str]] = [homes[place] for place in means]
        self._means = [*means.values()]
        self._power = _power(width)

    def shift(self, step: int) -> float:
        """How far the average goes to the weights after a run's ``step``, counted from 1."""
        return float(1 - (1 - 1 / step) ** (self._power + 1))

    @torch.no_grad()
    def move(self, shift: float | Tensor) -> None:
        """Take in the weights. No value is read back from the device, where a tensor ``shift`` may lie too."""
        means, lives = self._means, self._lives()
        if not isinstance(shift, Tensor):
            torch._foreach_lerp_(means, lives, shift)
            return
        steps = torch._foreach_sub(lives, means)
        torch._foreach_mul_(steps, shift)
        torch._foreach_add_(means, steps)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The context in which the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for live, mean in zip(self._lives(), self._means, strict=True):
                kept = live.clone()
                live.copy_(mean)
                mean.copy_(kept)

    def _lives(self) -> list[Tensor]:
        return [own[name] for own, name in self._homes]

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, by name."""
        return self._mean

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the averaged weights of a checkpoint."""
        for name, mean in self._mean.items():
            mean.copy_(weights[name])


def _place(tensor: Tensor) -> _Place:
    return tensor.data_ptr(), tuple(tensor.shape)


def checked_width(width: float) -> float:
    """The value of the key ``average``; UserError if it is none."""
    valid = isinstance(width, (int, float)) and not isinstance(width, bool) and (width == 0 or LEAST <= width <= WIDEST)
    require(valid, "average", width, f"give a width in [{LEAST}, {WIDEST}], as 0.05, or 0 for none")
    return float(width)


def _power(width: float) -> float:
    """g for a profile t^g on [0, 1] of a standard deviation: (g + 1) / ((g + 2)^2 (g + 3)) = width^2, solved for g."""
    square = width**-2
    return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())
