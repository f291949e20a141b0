"""What is in a dataset: counts, lengths, statistics, a contact sheet, the copy baseline, and what sigma=auto would take."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from cvae.console import say, short
from cvae.data.arrays import ArraySplit
from cvae.data.contract import Dataset, Frames
from cvae.data.examine import Seen, opened
from cvae.data.layout import read_frame
from cvae.errors import UserError, expanded, whole, writing
from cvae.pictures import contact_sheet

_ROWS = {"train": 4, "validate": 2, "test": 2}  # of the contact sheet
_PICTURES = 8


def sum_up(root: Path, good: Mapping[str, Sequence[Seen]], columns: Sequence[str], asked: argparse.Namespace) -> None:
    """Print it; the contact sheet goes to a file.

    Args:
        good: the sequences of each split that training may have.
        columns: what the conditions are called.

    Raises:
        UserError: the contact sheet cannot be written.
    """
    for split, seen in good.items():
        if seen:
            lengths = Counter(each.length for each in seen)
            said = ", ".join(f"{count} x {length}" for length, count in lengths.most_common(3))
            more = f" and {len(lengths) - 3} other lengths" if len(lengths) > 3 else ""
            say(f"{split:<9} {len(seen)} sequences, {sum(each.length for each in seen)} frames ({said}{more})")
    _tables(good["train"], columns)
    splits = {split: split_of(root, seen) for split, seen in good.items() if seen}
    if asked.sheet and splits:
        _sheet(splits, expanded(asked.sheet, "--sheet"))
    _baselines(splits, asked)


def split_of(root: Path, seen: Sequence[Seen]) -> ArraySplit:
    """Sequences as a split whose frames are read from their files when they are asked for."""
    frames: list[Any]
    if seen[0].packed is None:
        frames = [_Files(root / each.split / each.name, each) for each in seen]
    else:
        packed = opened(root / seen[0].split)
        frames = [packed.frames[each.packed] for each in seen if each.packed is not None]
    names, lengths = [each.name for each in seen], np.array([each.length for each in seen], np.int64)
    return ArraySplit(cast(Sequence[Frames], frames), [each.cond_TA for each in seen], names, lengths)


class _Files:
    """The frames of a sequence, read where they are asked for."""

    def __init__(self, folder: Path, seen: Seen) -> None:
        self._folder, self._seen = folder, seen

    def __getitem__(self, window: slice) -> Frames:
        naming = self._seen.naming
        frames = range(self._seen.length)[window]
        return np.stack([read_frame(self._folder / naming.name(t))[0] for t in frames])


def _tables(train: Sequence[Seen], columns: Sequence[str]) -> None:
    if not columns:
        say("no actions and no positions: the model predicts from frames alone")
        return
    wide = max([8, *map(len, columns)]) + 1
    say(f"{'of train':<{wide}}{'mean':>11}{'deviation':>11}{'least':>11}{'most':>11}")
    for column, name in enumerate(columns):
        values = [each.cond_TA[:, column].astype(np.float64) for each in train if each.has(column)]
        if not values:
            continue
        values_N = np.concatenate(values)
        facts = (values_N.mean(), values_N.std(), values_N.min(), values_N.max())
        say(f"{name:<{wide}}" + "".join(f"{fact:>11.4g}" for fact in facts))


def _sheet(splits: Mapping[str, ArraySplit], path: Path) -> None:
    rows = []
    for name, split in splits.items():
        for index in np.unique(np.linspace(0, len(split) - 1, _ROWS[name]).round().astype(int)):
            t_N = np.unique(np.linspace(0, split.lengths[index] - 1, _PICTURES).round().astype(int))
            frames_NHWC = np.concatenate([split.frames[index][t : t + 1] for t in t_N.tolist()])
            rows.append((f"{name}/{split.name(index)}", frames_NHWC, t_N.tolist()))
    with writing(path, "give another place with --sheet"), whole(path) as scratch:
        contact_sheet(rows, scratch)
    say(f"contact sheet: {short(path)}")


def _baselines(splits: Mapping[str, Any], asked: argparse.Namespace) -> None:
    """The copy baseline and sigma, by the functions that training uses."""
    from cvae.evaluation.validation import error_of, score_copy
    from cvae.model.objective import Gaussian

    length = asked.n_past + asked.n_future
    scores = {name: score_copy(split, asked.n_past, length)[0] for name, split in splits.items() if name != "train"}
    if scores:
        said = ", ".join(f"{score:.2f} dB in {name}" for name, score in scores.items())
        say(f"copy baseline: repeating frame {asked.n_past - 1} as the next {asked.n_future}: {said}")
    if "train" in splits:
        likelihood = Gaussian("auto")
        data = cast(Dataset, SimpleNamespace(train=splits["train"], random_start=True))
        error, scale = error_of(data, asked.n_past, length), asked.sigma_scale
        try:
            likelihood.measure(error, scale)
            say(f"likelihood.sigma=auto would take {likelihood.sigma:g}: {scale:g} times the RMSE {error:.4f} of train")
        except UserError as without:
            say(str(without))
