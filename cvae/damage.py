"""What of a run folder was damaged or lost: found before a run goes on, named with what is good and the command that goes on.

It reads no checkpoint but its seal (``cvae.integrity``), so it needs no PyTorch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvae import integrity
from cvae.console import say, short, warn
from cvae.errors import UserError, brief, whole, writing
from cvae.integrity import LINES, Damaged, Facts
from cvae.start import resume_command

_COPY = "restore it from a copy, or start a new run"
_LINE = 1 << 20  # bytes; no row of metrics.jsonl is nearly as long


class Damage(UserError):
    """A run cannot go on from what its folder holds; the message says what can be done."""


def check(folder: Path) -> None:
    """Raise ``Damage`` unless a run can go on from last.pt, or had not come so far as to have one."""
    last = checkpoint_of(folder, "last")
    try:
        facts = integrity.verify(last)
    except FileNotFoundError:
        if _is_new(folder):
            return
        raise Damage(f"{last} is missing: {way_on(folder)}") from None
    except (Damaged, OSError) as error:
        raise Damage(f"{last} is damaged ({brief(error)}): {way_on(folder)}") from error
    if why := _lines_damaged(folder, facts):
        raise Damage(f"{folder}/{why}: {way_on(folder)}")


def warn_of_best(folder: Path) -> None:
    """Say that the best epoch's checkpoint is damaged or gone: a run goes on without it, so nobody else would look at it."""
    best = checkpoint_of(folder, "best")
    try:
        integrity.verify(best)
        return
    except FileNotFoundError:
        what = "missing"
    except (Damaged, OSError) as error:
        what = f"damaged ({brief(error)})"
    warn(f"{best} is {what}: the run is whole without it, and a better epoch writes it anew; restore it from a copy to use it")


def way_on(folder: Path) -> str:
    """What of a run whose last.pt or lines are damaged still is good, and the command that goes on."""
    best = checkpoint_of(folder, "best")
    try:
        facts = integrity.verify(best)
    except FileNotFoundError:
        return f"there is no best.pt; {_COPY}"
    except (Damaged, OSError) as error:
        return f"best.pt is damaged as well ({brief(error)}); {_COPY}"
    which = "best.pt" if facts is None else f"best.pt of epoch {facts['epoch']}"
    if why := _lines_damaged(folder, facts):
        return f"{which} is whole, but {why}, before it already; {_COPY}"
    return f"{which} is whole; go on from it with: {resume_command(folder)} checkpoint=best"


def go_back(folder: Path) -> None:
    """Let a run go on from best.pt: it becomes last.pt. What it replaces is kept beside it.

    Lines of metrics.jsonl after its epoch go, at the latest when the run is resumed; then those of validations.jsonl do too.

    Raises:
        Damage: best.pt is damaged too, or the lines up to it are.
        UserError: a file could not be written.
    """
    best, last, lines = checkpoint_of(folder, "best"), checkpoint_of(folder, "last"), folder / "metrics.jsonl"
    try:
        facts = integrity.verify(best)
    except (Damaged, OSError) as error:
        raise Damage(
            f"{best} is damaged or missing ({brief(error)}): without checkpoint=best the run goes on from last.pt, "
            "if that is whole; else restore one of them from a copy, or start a new run"
        ) from error
    if why := _lines_damaged(folder, facts):
        raise Damage(f"{folder}/{why}, before best.pt already: {_COPY}")
    aside = []
    with writing(folder):
        if facts is None and lines.exists():  # how many lines best.pt stands for shows when it is loaded
            aside.append(shutil.copyfile(lines, beside(lines)))
        elif facts is not None and lines.exists() and lines.stat().st_size > facts["bytes"]:
            aside.append(_kept_aside(lines))
            with integrity.opened(lines) as file, whole(lines) as scratch:
                scratch.write_bytes(file.read(facts["bytes"]))
        if last.exists():
            aside.append(last.replace(beside(last)))
        with whole(last) as scratch, best.open("rb") as source, scratch.open("wb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
    kept = f"; kept aside: {', '.join(short(path) for path in aside)}" if aside else ""
    say(f"going back to {short(best)}" + (f" of epoch {facts['epoch']}" if facts else "") + kept)


def recover(folder: Path) -> None:
    """For a trial, whose job nobody can tell to: go on from best.pt where last.pt is damaged, else from the beginning.

    Raises:
        UserError: a file could not be written.
    """
    try:
        return check(folder)
    except Damage as damage:
        warn(str(damage))
    try:
        go_back(folder)
    except Damage as damage:
        warn(f"{damage}; this trial starts from the beginning")
        with writing(folder):
            for path in (checkpoint_of(folder, "last"), checkpoint_of(folder, "best"), *(folder / name for name in LINES)):
                if path.exists():
                    path.replace(beside(path))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of a run; lines that are cut off, damaged or no rows are left out, a missing file has none."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(row := json.loads(line), dict):
                rows.append(row)
    return rows


def first_lines(path: Path, key: str, numbers: Sequence[int]) -> bytes:
    """The first lines of a run's rows, whose values of ``key`` must be ``numbers``, one after the other.

    Raises:
        Damaged: one is not.
        OSError: it cannot be read.
    """
    content = bytearray()
    if numbers:
        with integrity.opened(path) as file:
            for index, number in enumerate(numbers):
                content += (line := file.readline(_LINE))
                if not line:
                    raise Damaged(f"{index} lines are left of {len(numbers)}")
                if not _is_row(line, key, number):
                    raise Damaged(f"line {index + 1} is not the row of {key} {number}")
    return bytes(content)


def _lines_damaged(folder: Path, facts: Facts | None) -> str:
    """Which lines that a checkpoint stands for are damaged and how, in a few words; empty if they are whole.

    Of a checkpoint without facts it is not known how many they are; whoever loads it looks at them.
    """
    for name in LINES:
        try:
            if facts is not None:
                integrity.check_lines(folder / name, facts)
        except FileNotFoundError:
            return f"{name} is missing"
        except (Damaged, OSError) as error:
            return f"{name} is damaged ({brief(error)})"
    return ""


def _is_row(line: bytes, key: str, number: int) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n") and isinstance(row, dict) and type(row.get(key)) is int and row[key] == number


def _is_new(folder: Path) -> bool:
    """Whether a run without last.pt may have been stopped before it: its first epoch's line and best.pt are written earlier."""
    with contextlib.suppress(OSError, Damaged):
        if ((integrity.facts(checkpoint_of(folder, "best")) or {}).get("epoch") or 0) > 1:
            return False
    with contextlib.suppress(FileNotFoundError), integrity.opened(folder / "metrics.jsonl") as file:
        return file.read(2 * _LINE).count(b"\n") <= 1
    return True


def checkpoint_of(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / f"{name}.pt"


def beside(path: Path) -> Path:
    """A free name beside ``path`` for what is damaged."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return aside


def _kept_aside(path: Path) -> Path:
    """A second name for a file that is about to be replaced; a copy where the file system has no links."""
    aside = beside(path)
    try:
        os.link(path, aside)
    except OSError:
        shutil.copyfile(path, aside)
    return aside
