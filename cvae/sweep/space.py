"""What a sweep searches: Hydra's sweep overrides read as Optuna distributions, and suggestions written as overrides.

The grammar is Hydra's own, with the meaning that the published Optuna sweeper gave it:

    optim=adam,sgd                        one of these               batch_size=int(interval(4, 32))      whole numbers
    lr=tag(log, interval(1e-4, 5e-3))     log-uniform                layers=range(2, 6, step=2)           2, 4 or 6
    dropout=interval(0.0, 1.0)            uniform                    width=choice(0.25, 0.5, 1)           one of these
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import BaseTrial

from cvae.errors import UserError
from cvae.sweep.distributions import Value, chosen, distribution_of, inside, same, shown, suggest, written

_NO_PARAMETERS = ("hydra", "allow_targets")


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
                values[key] = suggest(trial, key, self.distributions[key])
        return values

    def existing(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Of values for all parameters those whose condition holds."""
        found: dict[str, Value] = {}
        for key in sorted(values, key=self._depth):
            if self._exists(key, found):
                found[key] = values[key]
        return found

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
            return same(values[other], wanted)
        # The other one may be a parameter without a value, since its own condition fails: then this one fails too.
        return other not in self.distributions and same(self.choices.get(other), wanted)


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
        distribution = distribution_of(override)
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
    if distribution is not None and not inside(distribution, chosen(distribution, wanted)):
        raise UserError(f"{name} needs {other}={wanted}, but {other} is {shown(distribution)}")
    return other, wanted


def _refuse_circles(conditions: Mapping[str, tuple[str, str]]) -> None:
    for start in conditions:
        key, seen = start, {start}
        while key in conditions:
            key = conditions[key][0]
            if key in seen:
                raise UserError(f"hydra.sweeper.conditions form a circle through {key}: remove one of them")
            seen.add(key)


def path_of(key: str) -> str:
    """The place of an override's key in the config: ``+model/head@out`` is at ``model.head``."""
    return key.lstrip("+~").split("@")[0].replace("/", ".")
