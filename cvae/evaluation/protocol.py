"""A named protocol: what is given, what is predicted, how many samples, and which metrics. Numbers mean nothing without it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from cvae.config import CONF
from cvae.data.contract import Split
from cvae.errors import UserError, is_number, require

METRICS = ("psnr", "ssim", "lpips", "fvd")
KINDS = ("scores", "diagnosis")
BEST_OF = ("metric", "psnr")
_SAMPLES = 10_000
_HEADER = "begin its file with `# @package protocol.NAME`"


@dataclass(frozen=True)
class Protocol:
    """A file ``conf/protocol/NAME.yaml``; its name and its keys.

    Raises:
        UserError: a value makes no sense.
    """

    name: str
    kind: str = "scores"  # or diagnosis: how latent and actions are used
    n_past: int | None = None  # given frames; None: as in training
    n_future: int | None = None  # predicted frames; None: as in training
    samples: int = 1  # predictions of each video
    best_of: str = "metric"  # of several samples each metric counts the video's best by it; psnr: all count the best by PSNR
    metrics: tuple[str, ...] = ("psnr", "ssim")
    fvd_context: bool = False  # whether FVD compares the given frames as well
    bar: float | None = None  # PSNR in dB that is asked for where the data are BAIR

    def __post_init__(self) -> None:
        key = f"protocol.{self.name}"
        require(self.kind in KINDS, f"{key}.kind", self.kind, f"choose {', '.join(KINDS)}")
        for name in ("n_past", "n_future"):
            value = getattr(self, name)
            good = value is None or (type(value) is int and value >= 1)
            require(good, f"{key}.{name}", value, "give a number of frames, at least 1, or null for training's")
        good = type(self.samples) is int and 1 <= self.samples <= _SAMPLES
        require(good, f"{key}.samples", self.samples, f"give a number of samples, 1 to {_SAMPLES}")
        require(self.best_of in BEST_OF, f"{key}.best_of", self.best_of, f"choose {' or '.join(BEST_OF)}")
        known = all(metric in METRICS for metric in self.metrics)
        require(known and "psnr" in self.metrics, f"{key}.metrics", [*self.metrics], f"psnr, and any of {', '.join(METRICS)}")
        require(isinstance(self.fvd_context, bool), f"{key}.fvd_context", self.fvd_context, "give true or false")
        good = self.bar is None or (is_number(self.bar) and math.isfinite(self.bar))
        require(good, f"{key}.bar", self.bar, "give a PSNR in dB, or null")

    def settled(self, n_past: int, n_future: int) -> Protocol:
        """The protocol for a model that was trained with so many frames."""
        return dataclasses.replace(self, n_past=self.n_past or n_past, n_future=self.n_future or n_future)

    def changes(self) -> list[str] | None:
        """What it has otherwise than the package's protocol of its name, key by key; None if the package has none.

        Metrics are left out: which are computed changes none of them.
        """
        path = CONF / "protocol" / f"{self.name}.yaml"
        if not path.is_file():
            return None
        usual = _protocol(self.name, OmegaConf.to_container(OmegaConf.load(path)))
        names = [field.name for field in dataclasses.fields(self) if field.name != "metrics"]
        there = {name: (getattr(self, name), getattr(usual, name)) for name in names}
        return [f"{name}={'null' if own is None else own}" for name, (own, other) in there.items() if own != other]

    @property
    def frames(self) -> tuple[int, int]:
        """Given and predicted frames of a settled protocol."""
        return self.n_past or 0, self.n_future or 0

    @property
    def rule(self) -> str:
        """What is counted of several samples, in words."""
        if self.kind == "diagnosis":
            return f"{self.samples} samples of each video"
        if self.samples == 1:
            return "one sample"
        each = "every metric counts its own best one" if self.best_of == "metric" else "the best one by PSNR counts"
        return f"best of {self.samples} samples by video: {each}"

    def check(self, split: Split, where: str) -> None:
        """Raise UserError unless every sequence has the frames that are asked for."""
        n_past, n_future = self.frames
        shortest = int(split.lengths.argmin())
        if (there := int(split.lengths[shortest])) < n_past + n_future:
            raise UserError(
                f"protocol {self.name}: {where}/{split.name(shortest)} has {there} frames where {n_past} given and {n_future} "
                f"predicted ones are {n_past + n_future}: protocol.{self.name}.n_future={max(1, there - n_past)} or less"
            )


def protocols(found: Mapping[Any, Any]) -> list[Protocol]:
    """The protocols of a config's ``protocol`` node, by their names.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    require(bool(found), "protocol", [], "name one, such as protocol=course")
    return [_protocol(str(name), keys) for name, keys in found.items()]


def _protocol(name: str, keys: Any) -> Protocol:
    fields = [field.name for field in dataclasses.fields(Protocol) if field.name != "name"]
    if not isinstance(keys, Mapping):
        raise UserError(f"protocol.{name} is {keys!r} and no protocol: {_HEADER}")
    if not re.fullmatch(r"\w[\w-]{0,39}", name):
        raise UserError(f"protocol.{name}: a protocol is named by letters, digits, - and _, at most 40: {_HEADER}")
    if re.search(r"-(train|validate|test|best|last)$", name):
        raise UserError(f"protocol.{name} ends as the file of another protocol's split or checkpoint would: name it otherwise")
    if unknown := [str(key) for key in keys if key not in fields]:
        raise UserError(f"protocol.{name} has no {', '.join(unknown)}: its keys are {', '.join(fields)}")
    given = {str(key): value for key, value in keys.items()}
    if "metrics" in given:
        value = given["metrics"]
        several = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(several, Sequence) or not all(isinstance(each, str) for each in several):
            raise UserError(f"protocol.{name}.metrics is {value!r}: give a list of metrics, as [psnr,ssim]")
        given["metrics"] = tuple(several)
    return Protocol(name, **given)
