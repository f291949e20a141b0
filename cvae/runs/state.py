"""Whether a run has finished, goes on, or how it ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvae import files
from cvae.errors import FAILURE
from cvae.process import Process
from cvae.runs.rows import Row

# A run without a new row for so many seconds, or three times the seconds of its last epoch, counts as stopped.
_NEXT_ROW = 120.0
_FIRST_ROW = 1800.0  # nothing says how long the first epoch takes


def state_of(folder: Path, rows: Sequence[Row], epochs: int, record: Mapping[str, Any], failure: str) -> str:
    """Finished, running, stopped, failed or diverged; ``failure`` is the reason that the run left, if it did."""
    if (rows[-1]["epoch"] if rows else 0) >= epochs:  # an imported model has none
        return "finished"
    written = max((folder / "run.json").stat().st_mtime, _modified(folder / "metrics.jsonl"))
    if _modified(folder / "checkpoints" / "diverged.pt") >= written:  # else it was resumed after it diverged
        return "diverged"
    owned = _owned(folder)
    if owned:
        return "running"
    if failure:
        return "failed"
    if owned is False or _process_ended(record):
        return "stopped"
    limit = max(_NEXT_ROW, 3 * rows[-1].get("seconds", 0.0)) if rows else _FIRST_ROW
    return "running" if time.time() - written < limit else "stopped"


def _owned(folder: Path) -> bool | None:
    """Whether the process that owner.json names lives; None if there is no such file, or it says nothing."""
    with contextlib.suppress(FileNotFoundError, files.Unreadable, KeyError, TypeError, ValueError, OverflowError):
        owner = files.read_json(folder, "owner.json", 4096)
        alive = Process(str(owner["host"]), int(owner["pid"]), float(owner["started"])).alive()
        return time.time() < float(owner["until"]) if alive is None else alive
    return None


def _process_ended(record: Mapping[str, Any]) -> bool:
    """Whether the last process of a run is known to have ended; a process on another host may be alive."""
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        last = (record.get("resumed") or [record])[-1]["process"]
        return Process(str(last["host"]), int(last["pid"]), float(last["started"])).alive() is False
    return False


def _modified(path: Path) -> float:
    """When a file was last written, in seconds since 1970; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def failure_of(folder: Path) -> str:
    """The first line of failure.txt; empty if there is none."""
    try:
        text = files.head(folder, FAILURE)
        return f"{FAILURE} is no text" if "\0" in text else " ".join(text.partition("\n")[0].split())[:400]
    except FileNotFoundError:
        return ""
    except files.Unreadable as error:
        return str(error)
