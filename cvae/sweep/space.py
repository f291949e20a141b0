"""What a sweep searches: Hydra's sweep overrides read as Optuna distributions, and suggestions written as overrides.

The grammar is Hydra's own, with the meaning that the published Optuna sweeper gave it:

    optim=adam,sgd                        one of these               batch_size=int(interval(4, 32))      whole numbers
    lr=tag(log, interval(1e-4, 5e-3))     log-uniform                layers=range(2, 6, step=2)           2, 4 or 6
    dropout=interval(0.0, 1.0)            uniform                    width=choice(0.25, 0.5, 1)           one of these
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep, Transformer
from hydra.errors import HydraException, OverrideParseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from cvae.cli import quoted
from cvae.errors import UserError

_NO_PARAMETERS = ("hydra", "allow_targets")
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Space:
    """Parameters by key, each with its distribution; fixed overrides as they were written; conditions of parameters.

    ``conditions`` maps a parameter to the one choice, a key and its value, under which it exists. A parameter whose condition
    does not hold is neither suggested nor passed. ``choices`` are the values of keys that are not searched.
    """

    distributions: dict[str, BaseDistribution]
    fixed: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, tuple[str, str]] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)

    def suggest(self, trial: BaseTrial) -> dict[str, Value]:
        """A trial's value of each parameter whose condition holds. What a condition depends on is suggested first."""
        values: dict[str, Value] = {}
        for key in sorted(self.distributions, key=self._depth):
            if self._exists(key, values):
                values[key] = _suggest(trial, key, self.distributions[key])
        return values

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """A job's overrides: the fixed ones, then the suggested ones.

        Raises:
            UserError: a value cannot be of this sweep: what a study holds may come from a stranger.
        """
        for key, value in values.items():
            distribution = self.distributions.get(key)
            # What the user's own custom_search_space adds is in no distribution.
            own_key = distribution is not None or (
                re.fullmatch(r"\+{0,2}[A-Za-z_][\w.]*", key) and not key.lstrip("+").startswith(_NO_PARAMETERS)
            )
            own_value = not isinstance(value, str) or (
                value in distribution.choices if isinstance(distribution, CategoricalDistribution) else "${" not in value
            )
            if not own_key or not own_value:
                raise UserError(
                    f"the study holds {key}={value!r}, which this sweep does not search: take another hydra.sweeper.study_name"
                )
        return [*self.fixed.values(), *(f"{key}={written(value)}" for key, value in values.items())]

    def _depth(self, key: str) -> int:
        """How many parameters stand in a row before this one, each a condition of the next."""
        other, _ = self.conditions.get(key, ("", ""))
        return 1 + self._depth(other) if other in self.distributions else 0

    def _exists(self, key: str, values: Mapping[str, Value]) -> bool:
        if key not in self.conditions:
            return True
        other, wanted = self.conditions[key]
        if other in values:
            return written(values[other]) == wanted
        # The other one may be a parameter without a value, since its own condition fails: then this one fails too.
        return other not in self.distributions and self.choices.get(other) == wanted


def read_space(
    arguments: Sequence[str],
    params: Mapping[str, Any] | None = None,
    conditions: Mapping[str, str] | None = None,
    choices: Mapping[str, str] | None = None,
    config_loader: Any = None,
) -> Space:
    """Read a sweep's command line and its ``hydra.sweeper.params``. If a key is in both, the command line counts.

    Args:
        arguments: overrides; those that sweep become parameters, the others are fixed.
        params: the same as a mapping: key to what stands after its equals sign.
        conditions: parameter to ``key=value``.
        choices: the chosen option of each config group, for conditions on groups that are not searched.
        config_loader: Hydra's, for ``glob``.

    Raises:
        UserError: a sweep cannot be read or is empty, or a condition names no parameter.
    """
    words = [f"{key}={written(value)}" for key, value in (params or {}).items()]
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    known = dict(choices or {})
    try:
        parsed = OverridesParser.create(config_loader=config_loader).parse_overrides([*words, *arguments])
    except OverrideParseException as error:
        lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing override", "See http"))]
        raise UserError(f"{error.override}: cannot be read ({' '.join(lines)}): check brackets and quotes") from error
    for override in parsed:
        key = override.get_key_element()
        for known_key in [each for each in (*distributions, *fixed) if each.lstrip("+") == key.lstrip("+")]:
            distributions.pop(known_key, None), fixed.pop(known_key, None)
        distribution = _distribution(override)
        if distribution is None:
            fixed[key] = str(override.input_line)
            known[key.lstrip("+~")] = "" if override.is_delete() else override.get_value_element_as_str()
        else:
            distributions[key] = distribution
    read = {key: _condition(key, text, distributions) for key, text in (conditions or {}).items()}
    _refuse_circles(read)
    return Space(distributions, fixed, read, known)


def _condition(key: str, text: str, distributions: Mapping[str, BaseDistribution]) -> tuple[str, str]:
    name = f"hydra.sweeper.conditions.{key}"
    other, equals, wanted = (part.strip() for part in str(text).partition("="))
    if not (equals and other and wanted):
        raise UserError(f"{name} is {text!r}: write the key and the value it needs, as optim=sgd")
    if key not in distributions:
        raise UserError(f"{name}: this sweep does not search {key}: remove the condition, or search {key}")
    distribution = distributions.get(other)
    if isinstance(distribution, CategoricalDistribution):
        offered = [written(choice) for choice in distribution.choices]
        if wanted not in offered:
            raise UserError(f"{name} needs {other}={wanted}, but {other} is one of {', '.join(offered)}")
    return other, wanted


def _refuse_circles(conditions: Mapping[str, tuple[str, str]]) -> None:
    for start in conditions:
        key, seen = start, {start}
        while key in conditions:
            key = conditions[key][0]
            if key in seen:
                raise UserError(f"hydra.sweeper.conditions form a circle through {key}: remove one of them")
            seen.add(key)


def _distribution(override: Override) -> BaseDistribution | None:
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


def _suggest(trial: BaseTrial, key: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(key, distribution.choices)


def written(value: Any) -> str:
    """A value as it stands in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def path_of(key: str) -> str:
    """The place of an override's key in the config: ``+model/head@out`` is at ``model.head``."""
    return key.lstrip("+~").split("@")[0].replace("/", ".")


# --- distributions ---------------------------------------------------------------------------------------------------


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
