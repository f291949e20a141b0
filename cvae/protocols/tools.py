"""What a command gives its protocols: metric functions whose weights the user has, the device, and where data lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from cvae.console import warn
from cvae.errors import UserError, require
from cvae.evaluation.fvd import VideoFeatures, features
from cvae.evaluation.lpips import NETS, Lpips, lpips
from cvae.evaluation.metrics import FrameMetric, psnr, ssim
from cvae.training.runtime import choose_device, choose_precision

SPLITS, CHECKPOINTS = ("train", "validate", "test"), ("best", "last")
_SEEDS = 1 << 30


@dataclass(frozen=True)
class Settings:
    """The settings of an evaluation, named as their keys in the config (``cvae.evaluate.EvaluateConfig``).

    Raises:
        UserError: a value makes no sense.
    """

    split: str = "test"
    checkpoint: str = "best"
    seed: int = 1
    frames: int = 4096  # predicted in memory at a time
    device: str = "auto"
    precision: str = "fp32"
    bair: bool = False
    lpips_weights: str | None = None
    lpips_net: str = "alex"
    fvd_weights: str | None = None
    places: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    changed: Sequence[str] = ()  # what the command changes of protocols: their numbers are not those of the name alone
    allow_targets: Sequence[str] = ()

    def __post_init__(self) -> None:
        require(self.split in SPLITS, "split", self.split, f"choose {', '.join(SPLITS)}")
        require(self.checkpoint in CHECKPOINTS, "checkpoint", self.checkpoint, f"choose {' or '.join(CHECKPOINTS)}")
        require(0 <= self.seed < _SEEDS, "seed", self.seed, f"give a whole number of at least 0, below {_SEEDS}")
        require(self.frames >= 1, "frames", self.frames, "give the predicted frames in memory at a time, at least 1")
        require(self.lpips_net in NETS, "lpips.net", self.lpips_net, f"choose {', '.join(NETS)}")


class Tools:
    """Metric functions and the device. LPIPS and FVD are opened when a protocol first asks for them.

    Raises:
        UserError: there is no such device or precision.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device: torch.device = choose_device(settings.device)
        self.precision, self.autocast = choose_precision(settings.precision, self.device)
        self._opened: dict[str, Any] = {}
        self._missing: dict[str, str] = {}

    def of(self, metrics: Sequence[str]) -> tuple[dict[str, FrameMetric], VideoFeatures | None, dict[str, str]]:
        """The functions of frames, the features of FVD, and what cannot be computed with the line that says why."""
        for name in ("lpips", "fvd"):
            if name in metrics and name not in self._opened and name not in self._missing:
                try:
                    self._opened[name] = self._open(name)
                except UserError as error:
                    self._missing[name] = str(error)
                    warn(f"{error}; the other metrics are computed")
        functions: dict[str, FrameMetric] = {"psnr": psnr, "ssim": ssim, **self._opened}
        missing = {name: why for name, why in self._missing.items() if name in metrics}
        frames = {name: functions[name] for name in metrics if name in functions and name != "fvd"}
        return frames, self._opened.get("fvd") if "fvd" in metrics else None, missing

    def _open(self, name: str) -> Lpips | VideoFeatures:
        settings = self.settings
        return lpips(settings.lpips_weights, settings.lpips_net) if name == "lpips" else features(settings.fvd_weights)
