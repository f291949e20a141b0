"""The numbers of a run, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cvae.errors import UserError
from cvae.metrics import Metric


@dataclass(frozen=True)
class Settings:
    """The numbers of a run, named as its dials (``cvae.config.RunConfig``).

    Raises:
        UserError: a value makes no sense; the message names the dial and what to give.
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
    grad_clip: float | None
    validate_every: int
    sample_every: int

    def __post_init__(self) -> None:
        for name in ("epochs", "epoch_size", "batch_size", "n_past", "n_future", "n_samples", "validate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a whole number of at least 1")
        for name, least in (("sample_every", 0), ("seed", 0), ("n_eval", self.n_past + 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give a whole number of at least {least}")
        if not 0 <= self.tfr <= 1:
            raise UserError(f"tfr is {self.tfr:g}: give a teacher-forcing ratio in [0, 1]")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"lr is {self.lr:g}: give a learning rate above 0")
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise UserError(f"beta is {self.beta:g}: give a weight of at least 0, or null for the likelihood's default")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise UserError(f"grad_clip is {self.grad_clip:g}: give the largest gradient norm, above 0, or null for none")
        for name, choices in [
            ("coin", ("per_sequence", "per_step", "per_sample")),
            ("schedule_step", ("iteration", "epoch")),
        ]:
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}: choose {', '.join(choices)}")

    @property
    def objective(self) -> Metric:
        """What chooses best.pt."""
        return self.objectives[0]

    @property
    def length(self) -> int:
        """Frames of a window."""
        return self.n_past + self.n_future
