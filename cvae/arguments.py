"""A component's arguments in a config, against what the component says of them: their names, and the types of plain values."""

from __future__ import annotations

import contextlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cvae.errors import UserError

_WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    list: "a list",
    type(None): "null",
}
_HYDRAS = ("_target_", "_partial_")  # what a node may tell Hydra; ``_args_`` would pass values by every check of their names


def parameters_of(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """What a class or function takes; None if it takes any key, or does not tell."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    return None if any(each.kind == each.VAR_KEYWORD for each in parameters.values()) else parameters


def refuse_hydras(node: Mapping[Any, Any], key: str) -> None:
    """Raise UserError for words to Hydra that no config here needs."""
    for name in node:
        if str(name).startswith("_") and str(name).endswith("_") and name not in _HYDRAS:
            raise UserError(f"{key}.{name} is not allowed: give each argument by its own name")


def refuse_taken(node: Mapping[Any, Any], key: str, others: Mapping[str, Any]) -> None:
    """Raise UserError for an argument that whoever builds the component gives: the config's would be passed over."""
    for name in (name for name in others if name in node and name not in _HYDRAS):
        raise UserError(f"{key}.{name} follows from the run and cannot be set: leave it out")


def refuse_unknown(node: Mapping[Any, Any], key: str, target: Callable[..., Any]) -> None:
    """Raise UserError for keys that the target does not take: those of another option, if ``_target_`` alone was replaced."""
    if (parameters := parameters_of(target)) is None:
        return
    unknown = [name for name in node if name not in parameters and name not in _HYDRAS]
    if unknown:
        takes = f"{key}: {node['_target_']} takes no {', '.join(unknown)}, but {', '.join(parameters) or 'nothing'}. "
        if any(node[name] is None for name in unknown):  # Hydra cannot take away what is null
            raise UserError(f"{takes}Give the whole in its place: ~{key} '{key}={{_target_: {node['_target_']}, ...}}'")
        left = " ".join(f"~{key}.{name}" for name in unknown)
        raise UserError(f"{takes}Drop what is left over from another option: {left}")


def refuse_unfit(node: Mapping[Any, Any], key: str, target: Callable[..., Any]) -> None:
    """Raise UserError for a value of another type than the target's annotation names: ``no`` is a text, and a text is true.

    Only plain types are compared (bool, int, float, str, list, None, a literal, and unions of them). The default always fits.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    hints = _hints(target)
    for name, value in node.items():
        if name not in hints or name not in parameters or (isinstance(value, dict) and "_target_" in value):
            continue
        kinds = [kind for kind in _members(hints[name]) if getattr(kind, "__name__", "") != "Tensor"]  # no config holds one
        default = parameters[name].default
        plain = all(kind in _WANTED or not isinstance(kind, type) for kind in kinds)
        if not plain or any(_fits(value, kind) for kind in kinds) or (type(value) is type(default) and value == default):
            continue
        wanted = " or ".join(dict.fromkeys(_WANTED[kind] if isinstance(kind, type) else str(kind) for kind in kinds))
        raise UserError(f"{key}.{name} is {value!r}: give {wanted}")


@dataclass(frozen=True)
class _Row:
    """A tuple's annotation: what each of its parts may be."""

    parts: tuple[tuple[Any, ...], ...]

    def __str__(self) -> str:
        return f"a list of {len(self.parts)}"

    def takes(self, value: object) -> bool:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.parts):
            return False
        return all(any(_fits(each, kind) for kind in kinds) for each, kinds in zip(value, self.parts, strict=True))


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of what a target takes, without those that name what is not there when the program runs."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    found: dict[str, Any] = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: hint})
        with contextlib.suppress(Exception):  # whatever somebody's annotations raise
            found |= typing.get_type_hints(one, getattr(function, "__globals__", {}))
    return found


def _members(hint: Any) -> list[Any]:
    """The types of a union, or the values of a literal; else the hint itself, in a list. Of a tuple it is one of its parts'."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(hint) for member in _members(part)]
    if origin is typing.Literal:
        return list(typing.get_args(hint))
    if origin is tuple and (parts := typing.get_args(hint)) and Ellipsis not in parts:
        return [_Row(tuple(tuple(_members(part)) for part in parts))]
    if hint in (list, tuple) or origin in (list, tuple):  # a config has lists alone
        return [list]
    return [hint if isinstance(hint, type) and origin is None else object]


def _fits(value: object, kind: Any) -> bool:
    if isinstance(kind, _Row):
        return kind.takes(value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else value == kind
