"""Sequences moved aside: out of the splits, and never deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cvae.data.examine import Seen
from cvae.errors import UserError, writing

FOLDER = "quarantine"


def move_aside(root: Path, seen: Sequence[Seen]) -> Path:
    """Move sequences from ROOT/<split>/<name> to ROOT/quarantine/<split>/<name>, and add to reasons.txt there why.

    Returns:
        The folder ROOT/quarantine.

    Raises:
        UserError: one cannot be moved; those before it are.
    """
    aside = root / FOLDER
    with writing(aside, "get the right to write there"):
        aside.mkdir(exist_ok=True)
        with (aside / "reasons.txt").open("a", encoding="utf-8", errors="backslashreplace") as reasons:
            for each in seen:
                target = _free(aside / each.split / each.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                (root / each.split / each.name).rename(target)
                why = "; ".join(problem.what for problem in each.problems).replace("\n", "\\n")
                reasons.write(f"{target.relative_to(aside)}: {why}\n")
    return aside


def _free(path: Path) -> Path:
    """The path, or the first with a number behind it that is not taken by a sequence of an earlier call."""
    for number in range(1, 10_000):
        target = path if number == 1 else path.with_name(f"{path.name}-{number}")
        if not target.exists():
            return target
    raise UserError(f"{path} has been moved aside too often: empty {path.parent}")
