"""The rows of metrics.jsonl, as far as they can be believed: each follows the one before, and checkpoints stand for them.

Beside them those of validations.jsonl, which lie within epochs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvae import files, integrity
from cvae.errors import brief

Row = dict[str, float]

_BYTES, _LINES, _LINE, _KEYS = 1 << 22, 20_000, 1 << 16, 200  # that are read: a page could not show more
_LARGEST = sys.float_info.max
_NAME, _INSIDE = integrity.LINES


@dataclass(frozen=True)
class Rows:
    """What metrics.jsonl says of the epochs from 1 on, up to the first damage.

    ``damage`` says why there are no more rows; ``problems`` are others that cost no row. ``checkpoint`` is ``last.pt`` or
    ``best.pt``, from which the run can go on as far as the seal tells; empty if there is none. ``facts`` are those of its seal.
    ``inside`` are validations between the ends of epochs, by their steps.
    """

    rows: list[Row]
    damage: str = ""
    problems: list[str] = field(default_factory=list)
    checkpoint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    inside: list[Row] = field(default_factory=list)


def read_rows(folder: Path) -> Rows:
    """Read a run's rows, and compare them with what its checkpoints know of them.

    Of lines that were changed only those are given for which best.pt stands. A last line that was cut off is no damage: a
    killed run leaves one, and no checkpoint stands for it. Versions before seals left checkpoints that say nothing of lines.

    Raises:
        files.Unreadable: metrics.jsonl is no regular file, or too large.
    """
    try:
        content = files.read(folder, _NAME, _BYTES)
    except FileNotFoundError:
        content = b""
    rows, damage = _parsed(content)
    problems: list[str] = []
    changed = False
    for name in ("last.pt", "best.pt"):
        try:
            facts = integrity.facts(folder / "checkpoints" / name)
            wrong = _difference(folder, facts or {})
        except FileNotFoundError:
            continue
        except (integrity.Damaged, OSError) as error:
            problems.append(f"checkpoints/{name} is damaged ({brief(error)})")
            continue
        if not wrong:
            known = rows[: (facts or {}).get("lines", 0)] if changed else rows
            inside, why = _read_inside(folder, facts or {})
            return Rows(known, damage, [*problems, *why], name, facts or {}, inside)
        damage, changed = damage or wrong, True
    inside, why = ([], []) if changed else _read_inside(folder, {})
    return Rows([] if changed else rows, damage, [*problems, *why], inside=inside)


def _read_inside(folder: Path, facts: dict[str, Any]) -> tuple[list[Row], list[str]]:
    """The rows of validations.jsonl, and why there are none of those that were written."""
    rows: list[Row] = []
    keys: dict[str, str] = {}
    try:
        if facts:
            integrity.check_lines(folder / _INSIDE, facts)
        *lines, _ = files.read(folder, _INSIDE, _BYTES).split(b"\n")
        for line in lines[:_LINES]:
            rows.append(_numbers(_record(line), keys))
        if any({"epoch", "step"} - row.keys() for row in rows):
            raise ValueError("a line tells no epoch and step")
    except FileNotFoundError:
        return [], [f"{_INSIDE} is missing"] if facts.get("inside_lines") else []
    except (ValueError, OSError) as error:
        return [], [f"{_INSIDE} is damaged ({brief(error)})"]
    return rows, []


def _difference(folder: Path, facts: dict[str, Any]) -> str:
    """How metrics.jsonl differs from what a checkpoint knows of it; empty if it does not."""
    try:
        if facts:
            integrity.check_lines(folder / _NAME, facts)
    except FileNotFoundError:
        return f"{_NAME} is missing"
    except integrity.Damaged as error:
        return f"{_NAME} is damaged: {brief(error)}"
    return ""


def _parsed(content: bytes) -> tuple[list[Row], str]:
    """The rows up to the first that cannot be, and the reason for which it cannot."""
    if content.count(b"\n") > _LINES:
        raise files.Unreadable(f"{_NAME} has more than {_LINES:,} lines, and no more are read")
    rows: list[Row] = []
    keys: dict[str, str] = {}  # each once, not anew in every row
    *lines, torn = content.split(b"\n")
    for number, line in enumerate([*lines, torn] if torn else lines, 1):
        try:
            rows.append(_row(line, number, keys))
        except ValueError as error:
            return rows, "" if number > len(lines) else f"line {number} of {_NAME} is damaged ({brief(error)})"
    return rows, ""


def _row(line: bytes, number: int, keys: dict[str, str]) -> Row:
    """A line as a row. ValueError: it is none, or not that of epoch ``number``."""
    found = _record(line)
    if type(found.get("epoch")) is not int or found["epoch"] != number:
        raise ValueError(f"its epoch is {str(found.get('epoch'))[:40]}, not {number}")
    return _numbers(found, keys)


def _record(line: bytes) -> dict[str, Any]:
    if len(line) > _LINE:
        raise ValueError(f"it has more than {_LINE:,} letters")
    try:
        found = json.loads(line.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is no record")
    return found


def _numbers(found: dict[str, Any], keys: dict[str, str]) -> Row:
    row = {}
    for key, value in found.items():
        if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:  # training stops before it writes NaN
            raise ValueError(f"{key[:40]} is {json.dumps(value)[:40]}, not a number")
        row[keys.setdefault(key, key)] = float(value)
    if len(keys) > _KEYS:
        raise ValueError(f"more than {_KEYS} different keys up to it")
    return row
