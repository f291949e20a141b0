"""What is wrong with what a command said, and whether two runs are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harm.commands import Result

_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|--- Logging error ---|Exception ignored in|Fatal Python error")
_TIMES = ("seconds", "frames_per_second", "elapsed", "lines_sha256")  # of one epoch; the lines' hash holds them
CHECKED = ("model", "optimizer", "generator", "sums", "epoch", "iteration", "best")


def complaint(result: Result, codes: Iterable[int] = (0, 1)) -> str:
    """How a command broke the promise of its messages: ``hang``, ``traceback``, ``died``, ``unclear``; empty if it did not.

    Args:
        codes: the exit codes that it may end with. With 1 it prints one line that begins with ``error:``; on standard error
            there is nothing else, but for Ctrl-C's ``interrupted``.
    """
    if result.hung:
        return "hang"
    if _TRACEBACK.search(result.text):
        return "traceback"
    if result.code not in codes:
        return "died" if result.code < 0 else f"unclear (exit code {result.code})"
    lines = [line for line in result.err.splitlines() if line.strip() and line != "interrupted"]
    wanted = 1 if result.code == 1 else 0
    errors = [line for line in lines if line.startswith("error: ")]
    if len(lines) != wanted or len(errors) != wanted:
        return f"unclear ({len(lines)} lines for exit code {result.code})"
    return ""


def said(result: Result) -> str:
    """The command's last words, for a report of what is broken."""
    lines = (result.err.strip() or result.out.strip()).splitlines()[-3:]
    return f"exit code {result.code}: " + " | ".join(lines)[-400:]


def names(text: str, usual: str, *files: str) -> bool:
    """Whether ``text`` names one of the files in a line that ``usual``, the undamaged command's output, has not."""
    known = {_plain(line) for line in usual.splitlines()}
    new = [line for line in text.splitlines() if _plain(line) not in known]
    return any(file in line for line in new for file in files)


def _plain(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", line).strip()


def state_of(path: Path) -> dict[str, Any]:
    """What a checkpoint holds of a run's future: weights, optimizer, generator, sums and counts."""
    import torch

    state = torch.load(path, weights_only=True)
    return {key: state[key] for key in CHECKED if key in state}


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same, bit by bit."""
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def _bytes(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their times.

    Raises:
        ValueError: a line is no JSON.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in _TIMES} for line in lines]


def difference(folder: Path, reference: Path) -> str:
    """In what two run folders differ, in words; empty if they are bit-identical but for times."""
    try:
        if rows_of(folder) != rows_of(reference):
            return "metrics.jsonl differs"
        for name in ("last.pt", "best.pt"):
            if not equal(state_of(folder / "checkpoints" / name), state_of(reference / "checkpoints" / name)):
                return f"{name} differs"
    except Exception as error:  # whatever a damaged file leads to
        return f"it cannot be compared ({type(error).__name__}: {str(error)[:200]})"
    return ""


def trials_of(folder: Path) -> dict[str, tuple[Any, ...]]:
    """The trials of a sweep by their parameters: state, values and run folder.

    Raises:
        OSError, ValueError, KeyError: there is no whole sweep.json.
    """
    trials = json.loads((folder / "sweep.json").read_text())["trials"]
    counted = [trial for trial in trials if not trial.get("retried_by")]
    return {
        json.dumps(trial["params"], sort_keys=True): (trial["state"], trial["values"], trial["folder"]) for trial in counted
    }


def study_difference(folder: Path, reference: dict[str, tuple[Any, ...]], runs: bool = True) -> str:
    """In what a sweep differs from ``trials_of`` another one, by their parameters; with ``runs`` their run folders too."""
    try:
        found = trials_of(folder)
    except (OSError, ValueError, KeyError) as error:
        return f"sweep.json is not whole ({error})"
    if {key: value[:2] for key, value in found.items()} != {key: value[:2] for key, value in reference.items()}:
        return "trials differ: " + str({key: value[:2] for key, value in found.items()})[:300]
    if runs:
        for key, (_, _, place) in found.items():
            if different := difference(Path(place), Path(reference[key][2])):
                return f"trial {key}: {different}"
    return ""
