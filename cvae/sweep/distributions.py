"""Optuna's distributions from Hydra's sweep overrides, and their values as an override has them."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep, Transformer
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from cvae.cli import quoted
from cvae.errors import UserError

Value = str | int | float | bool | None


def distribution_of(override: Override) -> BaseDistribution | None:
    """The distribution that a sweep override asks for; None for a fixed one.

    Raises:
        UserError: it is empty, upside down, or cannot be searched.
    """
    if not override.is_sweep_override():
        return None
    value, line = override.value(), override.input_line
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value, str(line))
        if isinstance(value, RangeSweep) and not value.shuffle:
            return _range(value, str(line))
        if isinstance(value, ChoiceSweep):
            return CategoricalDistribution([_choice(each) for each in value.list])
        choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
        return CategoricalDistribution(choices)
    except ValueError as error:
        raise UserError(f"{line}: {error}") from error


def _choice(value: Any) -> Any:
    """A choice as it stands in an override: a string in quotes if it would be read as something else without them."""
    if isinstance(value, (str, QuotedString)):
        return as_word(value.text if isinstance(value, QuotedString) else value)
    return Transformer.encode(value)


def as_word(text: str) -> str:
    """A string as it stands in an override, in quotes only if it would be read as something else without them."""
    try:
        (read,) = OverridesParser.create().parse_overrides([f"key={text}"])
        if not read.is_sweep_override() and read.value() == text:
            return text
    except HydraException:
        pass
    return quoted(text)


def _interval(sweep: IntervalSweep, line: str) -> BaseDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{line}: an interval needs two finite ends")
    if low >= high:
        hint = f"write interval({high:g}, {low:g})" if low > high else "give two ends that differ, or one value"
        raise UserError(f"{line}: the interval is upside down or empty: {hint}")
    if log and low <= 0:
        raise UserError(f"{line}: a logarithmic interval needs ends above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(sweep: RangeSweep, line: str) -> BaseDistribution:
    """A grid from start to stop; like the published sweeper's, and unlike Python's, it includes its stop."""
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if "log" in sweep.tags:
        raise UserError(f"{line}: a range has equal steps: write tag(log, interval(...)), or the values as choices")
    assert start is not None
    assert stop is not None
    if step <= 0 or stop < start:
        raise UserError(f"{line}: a range to search goes up: range(low, high, step=...) with a step above 0")
    if all(isinstance(number, int) for number in (start, stop, step)):
        return IntDistribution(int(start), int(start + (stop - start) // step * step), step=int(step))
    # In decimals, as written: 0.1 + 3 * 0.2 is 0.7.
    first, last, by = (Decimal(str(number)) for number in (start, stop, step))
    return FloatDistribution(float(first), float(first + (last - first) // by * by), step=float(by))


def suggest(trial: BaseTrial, key: str, distribution: BaseDistribution) -> Value:
    value: Value
    if isinstance(distribution, FloatDistribution):
        value = trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    elif isinstance(distribution, IntDistribution):
        value = trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    else:
        assert isinstance(distribution, CategoricalDistribution)
        return trial.suggest_categorical(key, distribution.choices)
    if not inside(distribution, value):  # Optuna does not look
        raise ValueError(f"{key}={value} is outside of what is searched, {shown(distribution)}")
    return value


def written(value: Any) -> str:
    """A value as it stands in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def corners(distribution: BaseDistribution) -> list[Any]:
    """All choices of a distribution, or its ends."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return [distribution.low, distribution.high]


def as_searched(distribution: BaseDistribution, value: Any) -> Any:
    """A value of a config file, as it stands among a distribution's choices, which have the command line's form."""
    if not isinstance(distribution, CategoricalDistribution):
        return value
    text = as_word(value) if isinstance(value, str) else written(value).replace(", ", ",")
    return next((choice for choice in distribution.choices if written(choice) == text), value)


def chosen(distribution: BaseDistribution, wanted: str) -> Any:
    """The value of a distribution that a text means; the text itself if it means none."""
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if same(choice, wanted)), wanted)
    return _meaning(wanted)


def same(value: Any, wanted: str) -> bool:
    """Whether a value is what a text means: ``True`` and ``true`` are the same, and so are ``1e-3`` and ``0.001``."""
    one, other = _meaning(written(value)), _meaning(wanted)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _meaning(text: str) -> Any:
    try:
        (read,) = OverridesParser.create().parse_overrides([f"key={text}"])
        value = text if read.is_sweep_override() else read.value()
    except HydraException:
        return text
    return value.text if isinstance(value, QuotedString) else value


def inside(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can suggest a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def shown(distribution: BaseDistribution) -> str:
    """A distribution in a short form."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({', '.join(map(str, distribution.choices))})"
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    text = f"{distribution.low:g}..{distribution.high:g}"
    return text + (" log" if distribution.log else "") + (f" step {distribution.step:g}" if distribution.step else "")
