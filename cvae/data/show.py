"""``python -m cvae.data show ROOT --sequence K``: a sequence as a GIF, with its actions drawn as arrows beside the frames.

The arrow in the circle is dx, to the right, and dy, up. Each other value has an arrow to the right, or to the left if it is
negative. The longest of a value in the sequence is as long as there is room.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from cvae.console import say, short
from cvae.data.contract import Conditions, Frames
from cvae.data.examine import is_packed, opened
from cvae.data.layout import SPLITS, read_frames, read_table
from cvae.data.listing import list_split
from cvae.data.sealed import Damaged
from cvae.errors import UserError, expanded, whole, writing
from cvae.pictures import film


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.epilog = __doc__
    parser.add_argument("root", metavar="ROOT", help="the folder that holds train, validate and test")
    parser.add_argument("--sequence", default="0", metavar="K", help="its number in the split from 0, or its name (default: 0)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument("--out", metavar="FILE", help="default: show_SPLIT_K.gif")


def run(asked: argparse.Namespace) -> None:
    """Draw a sequence.

    Raises:
        UserError: there is no such sequence, it cannot be read, or the file cannot be written.
    """
    name, frames_THWC, cond_TA, columns = _sequence(expanded(asked.root, "ROOT"), asked.split, asked.sequence)
    plain = re.sub(r"[^\w.-]+", "_", asked.sequence)
    path = expanded(asked.out or f"show_{asked.split}_{plain}.gif", "--out")
    with writing(path, "give another place with --out"), whole(path) as scratch:
        film(frames_THWC, cond_TA, columns, f"{asked.split}/{name}", scratch)
    say(f"{asked.split}/{name}: {len(frames_THWC)} frames, {', '.join(columns) or 'no conditions'} in {short(path)}")


def _sequence(root: Path, split: str, sequence: str) -> tuple[str, Frames, Conditions, list[str]]:
    """Name, frames, conditions and their names."""
    if is_packed(root, split):
        try:
            packed = opened(root / split)
        except Damaged as error:
            raise UserError(f"{root / split} is damaged ({error}): python -m cvae.data check {root} says more") from error
        index = _index(root / split, [packed.name(index) for index in range(len(packed))], sequence)
        return packed.name(index), *packed[index], [name for names in packed.tables.values() for name in names]
    listing = list_split(root, split)
    index = _index(root / split, [f"{folder.parent.name}/{folder.name}" for folder in listing.folders], sequence)
    folder, length = listing.folders[index], listing.lengths[index]
    frames_THWC = read_frames(folder, length, listing.namings[index])
    tables = {file: read_table(folder, file, length, names) for file, names in listing.tables.items()}
    columns = [name for file, found in tables.items() if found for name in listing.tables[file]]
    values = [found[0] for found in tables.values() if found]
    cond_TA = np.concatenate([np.zeros((length, 0), np.float32), *values], axis=1)
    return f"{folder.parent.name}/{folder.name}", frames_THWC, cond_TA, columns


def _index(split: Path, names: list[str], sequence: str) -> int:
    index = names.index(sequence) if sequence in names else int(sequence) if sequence.isdecimal() else -1
    if not 0 <= index < len(names):
        held = f"{len(names)} sequences, from 0 ({names[0]}) to {len(names) - 1} ({names[-1]})"
        raise UserError(f"--sequence {sequence}: {split} has {held}: give a number or a name")
    return index
