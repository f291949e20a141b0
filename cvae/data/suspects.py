"""Sequences beside each other: copies, train sequences that recur elsewhere, and values that cannot be.

What one sequence looks like comes from ``cvae.data.examine``; problems are added to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cvae.data.examine import BAD, Seen

PLACES = ("x", "y", "z")  # columns that are metres
# How far is too far. Real recordings of arms stay below half of each (docs/data.md).
JUMP, CUT, FAR = 8, 5, 100
_SHARE = 0.95  # of all steps: what these do is the measure for the others
_LEAST_JUMP, _LEAST_CUT = 0.25, 0.15  # of a column's whole span; RMSE of pixels in [0, 1]


def mark_copies(seen: Sequence[Seen]) -> None:
    """Mark sequences whose frames are all those of an earlier one of their split."""
    first: dict[tuple[str, bytes], Seen] = {}
    for each in seen:
        if len(each.marks_T):
            one = first.setdefault((each.split, each.marks_T.tobytes()), each)
            if one is not each:
                each.add(f"{each.split}/{each.name} is a copy of {one.split}/{one.name}", BAD)


def mark_recurring(train: Sequence[Seen], others: Sequence[Seen]) -> None:
    """Mark train sequences at least half of whose different frames stand in another split, and say in which sequence."""
    marked = [each for each in others if len(each.marks_T)]
    if not marked:
        return
    marks = np.concatenate([each.marks_T for each in marked])
    owners = np.repeat(np.arange(len(marked)), [len(each.marks_T) for each in marked])
    marks, places = np.unique(marks, return_index=True)
    for each in train:
        own = np.unique(each.marks_T)
        at = np.searchsorted(marks, own).clip(max=len(marks) - 1)
        shared = marks[at] == own
        if len(own) and 2 * shared.sum() >= len(own):
            where = marked[np.bincount(owners[places[at[shared]]]).argmax()]
            share = f"{shared.sum()} of its {len(own)} different frames"
            each.add(f"{each.split}/{each.name} recurs in {where.split}/{where.name}: {share}", BAD)


def mark_jumps(seen: Sequence[Seen], columns: Sequence[str]) -> None:
    """Mark sequences with a step that no other shows, of a position or of the picture, and values far from all others.

    A position jumps if it moves in one frame by more than a quarter of its span and 8 times as far as 95 % of all steps. The
    picture jumps if the RMSE of two frames is above 0.15 and 5 times that of 95 % of all. A value is far if it is 100 times
    farther from the median than the 1 % and 99 % quantiles are from each other.
    """
    for column, name in enumerate(columns):
        tabled = [each for each in seen if each.has(column)]
        if not tabled:
            continue
        values_N = np.concatenate([each.cond_TA[:, column] for each in tabled]).astype(np.float64)
        low, middle, high = np.quantile(values_N, (0.01, 0.5, 0.99))
        for each in tabled if high > low else ():
            far_T = np.abs(each.cond_TA[:, column] - middle)
            if far_T.max() > FAR * (high - low):
                t = int(far_T.argmax())
                _add(each, t, f"{name} is {each.cond_TA[t, column]:.6g}, and mostly near {middle:.3g}")
        if name in PLACES:
            steps = [np.abs(np.diff(each.cond_TA[:, column].astype(np.float64))) for each in tabled]
            _mark(tabled, steps, JUMP, _LEAST_JUMP * float(np.ptp(values_N)), f"{name} jumps by")
    _mark(seen, [each.changes_T for each in seen], CUT, _LEAST_CUT, "the picture jumps by an RMSE of")


def _mark(seen: Sequence[Seen], steps: Sequence[NDArray[np.floating]], times: float, least: float, what: str) -> None:
    """Mark a sequence whose largest step is more than ``least`` and ``times`` what most steps are."""
    every = np.concatenate([np.zeros(0), *steps])
    usual = float(np.quantile(every, _SHARE)) if len(every) else 0.0
    for each, step_T in zip(seen, steps, strict=True):
        if usual > 0 and len(step_T) and step_T.max() > max(least, times * usual):
            t = int(step_T.argmax())
            _add(each, t + 1, f"{what} {step_T[t]:.3g}, where 95 % of all steps are at most {usual:.3g}")


def _add(seen: Seen, t: int, what: str) -> None:
    seen.add(f"{seen.split}/{seen.name} frame {t}: {what}", BAD)
