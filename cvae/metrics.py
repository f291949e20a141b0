"""The table of metrics: what a run records under which key, how it is shown, and whether more or less of it is better.

Trainer, sweeps, terminal, curves.png, W&B, TensorBoard and reports all read it. A new metric of predicted frames is a row
``val/NAME`` here and a function ``NAME`` in ``cvae.evaluation.metrics``. A metric of another package changes neither: the
config's root key ``metrics`` names its function and holds its row. run.json keeps all rows of a run, for those who show it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cvae.errors import UserError

KEY = 40  # letters of a key or a label
_MOST = 200  # rows of a foreign record that are taken
OWN_KEYS = ("label", "unit", "form", "better")  # of a metric in the config; its other keys are its function's


@dataclass(frozen=True)
class Metric:
    """A row of the table. ValueError if a field makes no sense: a row may come from a config, or from a foreign run.json."""

    key: str  # in metrics.jsonl; val/ stands for free-running prediction of the validation split
    label: str
    unit: str = ""
    form: str = ".4g"  # of its values: a format that Python and the report page know, of kind e, f or g
    better: str | None = None  # max or min; None: neither more nor less is better, so it can be no objective
    short: str = ""  # its name where room is short; the terminal's line leaves out what has none
    shown: str = "table"  # and as a curve; curve: so only; more: on demand; baseline: a mark on another's curve; fact: nowhere
    beside: str = ""  # the key of the metric in whose panel it is drawn too
    log: bool = False  # whether the report page offers a logarithmic axis
    samples: int = 1  # the least n_samples with which it is computed

    def __post_init__(self) -> None:
        for name in ("key", "label", "unit", "short", "beside"):
            text = getattr(self, name)
            if not (isinstance(text, str) and text.isprintable() and len(text) <= KEY):
                raise ValueError(f"{name} is {text!r}: give a text of at most {KEY} letters, in quotes")
        if self.better not in ("max", "min", None):
            raise ValueError(f"better is {self.better!r}: choose max or min, or leave it out")
        if self.shown not in ("table", "curve", "more", "baseline", "fact"):
            raise ValueError(f"shown is {self.shown!r}: choose table, curve, more, baseline or fact")
        if not (isinstance(self.log, bool) and isinstance(self.samples, int)):
            raise ValueError(f"log is {self.log!r} and samples {self.samples!r}: give true or false, and a whole number")
        if not (isinstance(self.form, str) and re.fullmatch(r"\.\d{1,2}[efg]", self.form)):
            raise ValueError(f"form is {self.form!r}: give a format such as .2f or .4g")

    @property
    def title(self) -> str:
        """The label with the unit, for axes."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float | None) -> str:
        """A value as it is written, zeros at its end kept; empty for None."""
        return "" if value is None else f"{value:#{self.form}}".rstrip(".")

    def rank(self, value: float | None) -> float:
        """A sort key: the best value comes first, None last."""
        if value is None:
            return math.inf
        return value if self.better == "min" else -value


BUILT_IN = (
    Metric("val/psnr", "validation PSNR", "dB", ".2f", "max", short="PSNR"),
    Metric("val/psnr_copy", "repeating the last frame", "dB", ".2f", short="copy", shown="baseline", beside="val/psnr"),
    Metric("train/mse", "MSE a step", better="min", short="MSE"),
    Metric("train/kld", "KL a step", "nats", ".3g", short="KL", log=True),
    Metric("kl_weight", "KL weight, epoch mean", form=".3g", short="KL weight", shown="curve"),
    Metric("tf_ratio", "teacher-forcing ratio, epoch mean", form=".2f", short="forcing", shown="curve"),
    Metric("lr", "learning rate", form=".3g", shown="curve"),
    Metric("val/psnr_best", "PSNR, best sample", "dB", ".2f", "max", "best of N", "more", beside="val/psnr", samples=2),
    Metric("val/psnr_mid", "PSNR, mean of one sample and the best", "dB", ".2f", "max", shown="more", samples=2),
    Metric("val/ssim", "SSIM", form=".3f", better="max", short="SSIM", shown="curve"),
    Metric("val/mse", "validation MSE", better="min", shown="more", beside="train/mse"),
    Metric("train/loss", "loss", better="min", shown="more"),
    Metric("frames_per_second", "frames a second", form=".0f", better="max", shown="more"),
    Metric("peak_memory", "peak memory", "GiB", ".3g", "min", shown="fact"),
)

OF_PROTOCOLS = (  # what result files of protocols hold, by these keys
    Metric("psnr", "PSNR", "dB", ".2f", "max"),
    Metric("ssim", "SSIM", form=".4f", better="max"),
    Metric("lpips", "LPIPS", form=".4f", better="min"),
    Metric("fvd", "FVD", form=".1f", better="min"),
)


def table(own: Mapping[Any, Any]) -> tuple[Metric, ...]:
    """The built-in rows, and those of the config's key ``metrics``, as ``{mae: {_target_: mypkg.mae, better: min}}``.

    Raises:
        UserError: a row cannot be read, or its name is taken; the message names its key.
    """
    taken, rows = [metric.key for metric in BUILT_IN], []
    for name, given in own.items():
        if f"val/{name}" in taken:
            raise UserError(f"metrics.{name}: val/{name} is built in: choose another name")
        if not isinstance(given, Mapping) or "_target_" not in given:
            raise UserError(f"metrics.{name} is {given!r}: write {{_target_: package.function, label: MAE, better: min}}")
        row = {"label": str(name), **{key: given[key] for key in OWN_KEYS if given.get(key) is not None}}
        try:
            rows.append(Metric(key=f"val/{name}", short=row["label"], **row))
        except ValueError as error:
            raise UserError(f"metrics.{name}.{error}") from None
    return (*BUILT_IN, *rows)


def objectives(given: Any, metrics: Iterable[Metric], n_samples: int | None = None) -> tuple[Metric, ...]:
    """The rows of ``objective=``, a key or a list of them; ``n_samples`` is the run's, where it is known.

    The first chooses best.pt. Further ones are taken at its epoch, for sweeps that weigh them against it.

    Raises:
        UserError: there is no such metric, it has no direction, the run does not compute it, or the first is no ``val/`` one:
            only free-running prediction says how good a model is.
    """
    names = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    directed = {metric.key: metric for metric in metrics if metric.better is not None}
    first = {key: metric for key, metric in directed.items() if key.startswith("val/")}
    for place, name in enumerate(names or [""]):
        choices = directed if place else first
        if name not in list(choices):
            which = f"after {names[0]} choose" if place else "choose"
            raise UserError(f"objective is {name!r}: {which} {', '.join(choices)}")
        if names.index(name) < place:
            raise UserError(f"objective names {name} twice: leave one of them out")
        if n_samples is not None and 0 < n_samples < choices[name].samples:
            raise UserError(f"objective={name} is computed only with several futures a sequence: n_samples=10, say")
    return tuple(directed[name] for name in names)


def directions(given: Any, own: Mapping[Any, Any]) -> str | list[str]:
    """What a sweep is to do with ``objective=``, ``maximize`` or ``minimize``, of a list a list. Raises as ``objectives``."""
    found = [{"max": "maximize", "min": "minimize"}[str(metric.better)] for metric in objectives(given, table(own))]
    return found[0] if isinstance(given, str) else found


def panels(metrics: Sequence[Metric]) -> list[list[Metric]]:
    """Metrics that are drawn together: each that is shown as a curve, and after it those that stand beside it."""
    curves = [metric for metric in metrics if metric.shown in ("table", "curve")]
    return [[first, *(metric for metric in metrics if metric.beside == first.key)] for first in curves]


def as_record(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """Rows as run.json keeps them: the fields that differ from their defaults."""
    usual = asdict(Metric("", ""))
    return [{name: value for name, value in asdict(metric).items() if value != usual[name]} for metric in metrics]


def from_record(rows: Any) -> tuple[Metric, ...]:
    """The rows of a run.json; the built-in ones if it has none. What makes no row, or another version's, is left out."""
    found = []
    for row in rows[:_MOST] if isinstance(rows, list) else []:
        with contextlib.suppress(TypeError, ValueError):
            found.append(Metric(**row))
    return tuple(found) or BUILT_IN
