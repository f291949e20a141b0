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
from dataclasses import asdict, dataclass, fields
from typing import Any

from cvae.errors import UserError

OWN_KEYS = ("label", "unit", "form", "better")  # of a metric in the config; the others are its function's
_SHOWN = ("table", "curve", "more", "baseline", "fact")
_LONGEST = 40  # letters of a label
_FORM = re.compile(r"\.\d{1,2}[efg]")


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Args:
        key: its key in metrics.jsonl; ``val/`` stands for free-running prediction of the validation split.
        label: its name where there is room.
        unit: of its values, empty for none.
        form: how a value is written, a format of Python's (and of d3's, on the report page): ``.2f``.
        better: ``max``, ``min``, or None for what is neither good nor bad; that cannot be an objective.
        short: its name where room is short. The terminal's line leaves out what has none.
        shown: ``table``: in tables and as a curve; ``curve``: as a curve; ``more``: as a curve that the report page shows on
            demand; ``baseline``: as a mark beside the metric that it is the baseline of; ``fact``: nowhere.
        beside: the key of a metric in whose panel it is drawn too.
        log: whether the report page offers a logarithmic axis.
        samples: the least ``n_samples`` with which it is computed.
    """

    key: str
    label: str
    unit: str = ""
    form: str = ".4g"
    better: str | None = None
    short: str = ""
    shown: str = "table"
    beside: str = ""
    log: bool = False
    samples: int = 1

    @property
    def title(self) -> str:
        """The label with the unit, for axes."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def selects(self) -> bool:
        """Whether it may choose best.pt: only free-running prediction says how good a model is."""
        return self.key.startswith("val/") and self.better is not None

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
    Metric("kl_weight", "KL weight", form=".3g", short="KL weight", shown="curve"),
    Metric("tf_ratio", "teacher-forcing ratio", form=".2f", short="forcing", shown="curve"),
    Metric("lr", "learning rate", form=".3g", shown="curve"),
    Metric("val/psnr_best", "PSNR, best sample", "dB", ".2f", "max", "best of N", "more", beside="val/psnr", samples=2),
    Metric("val/ssim", "SSIM", form=".3f", better="max", short="SSIM", shown="more"),
    Metric("train/loss", "loss", better="min", shown="more"),
    Metric("frames_per_second", "frames a second", form=".0f", better="max", shown="more"),
    Metric("peak_memory", "peak memory", "GiB", ".3g", "min", shown="fact"),
)


def table(own: Mapping[str, Any] | None) -> tuple[Metric, ...]:
    """The built-in rows and those of the config's key ``metrics``, as plain values: ``{mae: {_target_: ..., better: min}}``.

    Raises:
        UserError: a row cannot be read, or its name is taken; the message names its key.
    """
    return BUILT_IN + tuple(_own_row(str(name), given) for name, given in (own or {}).items())


def _own_row(name: str, given: Any) -> Metric:
    if f"val/{name}" in [metric.key for metric in BUILT_IN]:
        raise UserError(f"metrics.{name}: val/{name} is built in: choose another name")
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"metrics.{name}: name a metric with letters, digits and _ alone")
    if not isinstance(given, Mapping) or "_target_" not in given:
        raise UserError(f"metrics.{name} is {given!r}: write {{_target_: package.function, label: MAE, better: min}}")
    row = {"label": name, **{key: given[key] for key in OWN_KEYS if given.get(key) is not None}}
    try:
        return _checked(Metric(key=f"val/{name}", short=row["label"], **row))
    except ValueError as error:
        raise UserError(f"metrics.{name}.{error}") from None


def _checked(metric: Metric) -> Metric:
    """The row itself; ValueError if a field's value makes no sense, be it from a config or from a stranger's run.json."""
    for name in ("key", "label", "unit", "short", "beside"):
        text = getattr(metric, name)
        if not (isinstance(text, str) and text.isprintable() and len(text) <= _LONGEST):
            raise ValueError(f"{name} is {text!r}: give a text of at most {_LONGEST} letters, in quotes")
    if metric.better not in ("max", "min", None):
        raise ValueError(f"better is {metric.better!r}: choose max or min, or leave it out")
    if not (isinstance(metric.form, str) and _FORM.fullmatch(metric.form)):
        raise ValueError(f"form is {metric.form!r}: give a format such as .2f or .4g")
    if metric.shown not in _SHOWN or not (isinstance(metric.log, bool) and isinstance(metric.samples, int)):
        raise ValueError("shown, log or samples has no such value")
    return metric


# --- objectives -------------------------------------------------------------------------------------------------------


def objectives(given: Any, metrics: Sequence[Metric], n_samples: int | None = None) -> tuple[Metric, ...]:
    """The rows of ``objective=``: the first chooses best.pt, further ones are taken at its epoch and only weighed by sweeps.

    Args:
        given: a key or a list of keys.
        metrics: the run's table.
        n_samples: the run's, if it is known.

    Raises:
        UserError: there is no such metric, it has no direction, the run does not compute it, or the first is no ``val/`` one.
    """
    names = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not names:
        raise UserError("objective is empty: give a metric, as val/psnr, or a list of them")
    found = []
    for place, name in enumerate(names):
        choices = [metric for metric in metrics if (metric.better if place else metric.selects)]
        metric = next((each for each in choices if each.key == name), None)
        if metric is None:
            which = "choose" if not place else f"after {names[0]} choose"
            raise UserError(f"objective is {name!r}: {which} {', '.join(each.key for each in choices)}")
        if n_samples is not None and n_samples < metric.samples:
            raise UserError(f"objective={name} is computed only with several futures a sequence: n_samples=10, say")
        found.append(metric)
    return tuple(found)


def directions(given: Any, own: Mapping[str, Any] | None) -> str | list[str]:
    """Optuna's direction of ``objective=``: maximize or minimize; of a list a list.

    Raises:
        UserError: as ``objectives`` and ``table``.
    """
    found = [f"{metric.better}imize" for metric in objectives(given, table(own))]
    return found[0] if isinstance(given, str) else found


# --- for those who show a run -----------------------------------------------------------------------------------------


def panels(metrics: Iterable[Metric]) -> list[list[Metric]]:
    """Metrics that are drawn together: each that is shown as a curve, with those that stand beside it."""
    metrics = list(metrics)
    return [
        [metric, *(other for other in metrics if other.beside == metric.key)]
        for metric in metrics
        if metric.shown in ("table", "curve")
    ]


def as_record(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """Rows as run.json keeps them: fields that differ from their defaults."""
    defaults = asdict(Metric("", ""))
    return [{name: value for name, value in asdict(metric).items() if value != defaults[name]} for metric in metrics]


def from_record(rows: Any) -> tuple[Metric, ...]:
    """The rows of a run.json; the built-in ones if it has none, as before version 0.2. What makes no row is left out."""
    known, found = [field.name for field in fields(Metric)], []
    for row in rows if isinstance(rows, list) else []:
        with contextlib.suppress(TypeError, ValueError):
            found.append(_checked(Metric(**{name: row[name] for name in known if name in row})))
    return tuple(found) or BUILT_IN
