"""The numbers of a run, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cvae.errors import require
from cvae.metrics import Metric
from cvae.training.averaging import checked_width

_LARGEST, _LARGEST_SEED, _MOMENTS = 10**9, 2**63 - 1, 100_000


@dataclass(frozen=True)
class Settings:
    """The numbers of a run, named as their keys in the config (``cvae.config.RunConfig``).

    Raises:
        UserError: a value makes no sense; the message names the key and what to give.
    """

    lr: float
    tfr: float
    beta: float
    epochs: int
    epoch_size: int
    batch_size: int
    seed: int
    n_past: int
    n_future: int
    n_eval: int
    n_samples: int
    objectives: tuple[Metric, ...]  # the first chooses best.pt; a sweep weighs the others against it
    coin: str
    schedule_step: str
    sigma_scale: float
    grad_clip: float | None
    average: float
    window_growth: float
    validate_every: int
    validate_at: Sequence[str]
    sample_every: int

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("epochs", "epoch_size", "batch_size", "n_past", "n_future", "n_samples", "validate_every"), 1)
        for name, least in {**counts, "sample_every": 0, "seed": 0, "n_eval": self.n_past + 1}.items():
            value, most = getattr(self, name), _LARGEST_SEED if name == "seed" else _LARGEST
            hint = f"give a whole number of at least {least}" if value < least else f"give a whole number of at most {most}"
            require(least <= value <= most, name, value, hint)
        for name, valid, hint in (
            ("tfr", 0 <= self.tfr <= 1, "give a teacher-forcing ratio in [0, 1]"),
            ("lr", 0 < self.lr < math.inf, "give a learning rate above 0"),
            ("beta", 0 <= self.beta < math.inf, "give a weight of at least 0, or null for the likelihood's default"),
            ("sigma_scale", 0.001 <= self.sigma_scale <= 1000, "give how many times the data's error sigma=auto is, such as 6"),
            ("grad_clip", self.grad_clip is None or self.grad_clip > 0, "give a largest norm above 0, or null for none"),
            ("window_growth", 0 <= self.window_growth <= 1, "give a share of the run in [0, 1], 0 for whole windows at once"),
            ("coin", self.coin in ("per_sequence", "per_step", "per_sample"), "choose per_sequence, per_step, per_sample"),
            ("schedule_step", self.schedule_step in ("iteration", "epoch"), "choose iteration, epoch"),
        ):
            require(valid, name, getattr(self, name), hint)

        checked_width(self.average)
        _ = self.moments

    @property
    def objective(self) -> Metric:
        """What chooses best.pt."""
        return self.objectives[0]

    @property
    def length(self) -> int:
        """Frames of a window."""
        return self.n_past + self.n_future

    @cached_property
    def moments(self) -> frozenset[int]:
        """The iterations of the run after which it validates besides the ends of epochs: ``validate_at``, counted from 1."""
        last, found = self.epochs * self.epoch_size, set()
        for text in self.validate_at:
            match = re.fullmatch(r"(\d{1,12})(?::(\d{1,12}):(\d{1,12}))?", str(text), re.ASCII)
            begin, end, every = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
            if match and match[2] is None:
                end, every = begin, 1
            hint = f"give iterations of the run, 1 to {last}, as [{last}], or from:to:every, as [1:{last}:20]"
            require(1 <= begin <= end <= last and every > 0, "validate_at", str(text), hint)
            few = (end - begin) // every < _MOMENTS
            require(few, "validate_at", str(text), f"give at most {_MOMENTS:,} of them: each costs a validation")
            found |= set(range(begin, end + 1, every))
        return frozenset(found)

    def moments_until(self, step: int) -> list[int]:
        """Those up to an iteration, in order."""
        return sorted(moment for moment in self.moments if moment <= step)

    def window(self, epoch: int) -> int:
        """Frames of a training window in an epoch, counted from 1: over ``window_growth`` of the run they become all."""
        grown = 1.0 if self.window_growth == 0 else min(1.0, (epoch - 1) / (self.window_growth * self.epochs))
        return self.n_past + 1 + round(grown * (self.n_future - 1))
