"""The names of the options that a run chose, ``kl_schedule: cyclical``: people know a run by them, not by class paths."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvae import files
from cvae.console import printable

_HYDRA = 1 << 20  # bytes of hydra.yaml that are read
_MOST, _LETTERS = 50, 100


def chosen(folder: Path) -> dict[str, str] | None:
    """The chosen option of each group, from what Hydra wrote of the run; None where the run was made without Hydra.

    A group whose ``_target_`` the command replaced is left out: its option does not say any more what was built.
    """
    with contextlib.suppress(OSError, files.Unreadable, KeyError, TypeError, AttributeError):  # whatever stands there
        hydra = files.read_yaml(folder, ".hydra/hydra.yaml", _HYDRA)["hydra"]
        choices, words = hydra["runtime"]["choices"], hydra["overrides"]["task"]
        replaced = {found[1] for word in words if (found := re.match(r"\+*([\w.]+)\._target_=", word))}
        named = {group: name for group, name in reversed(choices.items()) if not str(group).startswith("hydra/")}
        return believed({group: name for group, name in named.items() if group not in replaced})
    return None


def believed(options: object) -> dict[str, str] | None:
    """Options as a record says them, as far as they are short texts; None where it says none."""
    if not isinstance(options, Mapping):
        return None
    texts: dict[Any, Any] = {key: value for key, value in options.items() if isinstance(key, str) and isinstance(value, str)}
    pairs = [(printable(key)[:_LETTERS], printable(value)[:_LETTERS]) for key, value in texts.items()]
    return dict(pairs[:_MOST])


def named(config: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """A config without the class paths of what an option says; another class is called by its name, below ``class``."""

    def without(value: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            return value
        rest = {
            name: without(each, f"{key}.{name}" if key else str(name)) for name, each in value.items() if name != "_target_"
        }
        if "_target_" in value and key not in options:
            rest = {"class": str(value["_target_"]).rpartition(".")[2], **rest}
        return rest

    plain: dict[str, Any] = without(config, "")
    return plain
