"""The numbers of a run, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cvae.errors import UserError

_OBJECTIVES = ("val/psnr", "val/ssim", "val/psnr_best")
_FACTS = (*_OBJECTIVES, "train/mse", "train/kld", "train/loss", "frames_per_second", "peak_memory")


@dataclass(frozen=True)
class Settings:
    """The numbers of a run, named as its dials (``cvae.config.RunConfig``).

    Raises:
        UserError: a value makes no sense; the message names the dial and the mend.
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
    objective: str
    further: tuple[str, ...]  # objectives that a sweep weighs against it
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
            ("objective", _OBJECTIVES),
        ]:
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}: choose {', '.join(choices)}")
        for name in self.further:
            if name not in _FACTS:
                raise UserError(f"objective is [{self.objective}, {name}]: after the first choose {', '.join(_FACTS)}")
        if "val/psnr_best" in (self.objective, *self.further) and self.n_samples < 2:
            raise UserError("objective=val/psnr_best needs several futures to choose from: n_samples=10")

    @property
    def length(self) -> int:
        return self.n_past + self.n_future
