"""The course layout on disk, and reading it with errors that name the file.

    ROOT/{train,validate,test}/<traj folder>/<k>/{0..29}.png
                                                 actions.csv                 4 columns: dx, dy, dz, gripper
                                                 endeffector_positions.csv   3 columns: x, y, z

No headers, a row a frame; row t of both files belongs to frame t, and the action of row t leads to frame t+1. The spelling
``endeffecter_positions.csv`` is accepted too. Folder names are free; sequences come in natural order (2 before 10).
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvae.console import natural_order
from cvae.errors import UserError

SPLITS = ("train", "validate", "test")
IMAGE_SIZE = 64
TABLES = {"actions.csv": ("dx", "dy", "dz", "gripper"), "endeffector_positions.csv": ("x", "y", "z")}  # columns
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)  # Pillow's
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Listing:
    """A split's sequence folders in natural order, the frames in each, and a hash of all file names, sizes, mtimes."""

    folders: list[Path]
    lengths: list[int]
    fingerprint: str


def refuse_absent(root: Path, split: str) -> None:
    """Raise UserError unless there are ROOT and its folder ``split``."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: set data.root to the folder that holds {', '.join(SPLITS)}")
    if not (root / split).is_dir():
        found = ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir())) or "no folders"
        raise UserError(f"{root / split} is missing (found: {found}): data.root needs the folders {', '.join(SPLITS)}")


def list_split(root: Path, split: str) -> Listing:
    """List ROOT/split without opening a file.

    Raises:
        UserError: the root or the split is missing or empty, or a sequence's frames are not numbered 0, 1, 2, ...
    """
    refuse_absent(root, split)
    folder = root / split
    digest = hashlib.sha256()
    sequences = [sequence for traj in _subfolders(folder) for sequence in _subfolders(traj)]
    lengths = {sequence: length for sequence in sequences if (length := _count_frames(sequence, digest))}
    if not lengths:
        raise UserError(f"{folder} holds no sequences: expected {folder}/<traj folder>/<k>/0.png and so on")
    return Listing(list(lengths), list(lengths.values()), digest.hexdigest())


def read_frames(folder: Path, length: int) -> NDArray[np.uint8]:
    """Decode 0.png .. of a sequence to ``frames_THWC``.

    Raises:
        UserError: a file is not a readable PNG or not 64x64.
    """
    frames_THWC = np.empty((length, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for t in range(length):
        path = folder / f"{t}.png"
        try:
            with Image.open(path) as image:
                if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                    raise UserError(
                        f"{path} is {image.width}x{image.height}: frames must be {IMAGE_SIZE}x{IMAGE_SIZE}, resize it"
                    )
                frames_THWC[t] = _rgb(image)
        except _BROKEN as error:
            raise UserError(f"{path} is not a readable PNG ({error}): copy or convert it again") from error
    return frames_THWC


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
        grey_HW = (np.asarray(image, np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    if "transparency" in image.info:  # Pillow warns of palettes with an alpha table unless it is asked for
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def read_table(folder: Path, file: str, length: int) -> NDArray[np.float32] | None:
    """Read the first ``length`` rows of a sequence's ``file``, one of TABLES; None if it is not there.

    Raises:
        UserError: a row has another number of columns, a value is not a finite number, or rows are missing.
    """
    columns = len(TABLES[file])
    spellings = (folder / file, folder / file.replace("effector", "effecter"))
    path = next((each for each in spellings if each.is_file()), None)
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): a text file of {columns} columns is needed") from error
    lines = [line for line in lines if line.strip()]
    if len(lines) < length:
        raise UserError(f"{path} has {len(lines)} rows for {length} frames: a row a frame is needed")
    table = np.empty((length, columns), np.float32)
    for row, line in enumerate(lines[:length]):
        cells = line.split(",")
        if len(cells) != columns:
            raise UserError(f"{path} row {row + 1} has {len(cells)} columns: {columns} are needed ({', '.join(TABLES[file])})")
        table[row] = [_finite(cell, path, row) for cell in cells]
    return table


def _finite(cell: str, path: Path, row: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise UserError(f"{path} row {row + 1} holds {cell.strip()[:40]!r}: every value must be a finite number")
    return value


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names, key=natural_order)]


def _count_frames(folder: Path, digest: hashlib._Hash) -> int:
    numbers: list[int] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, _, extension = entry.name.rpartition(".")
            if extension not in ("png", "csv"):
                continue
            try:
                stat = entry.stat()
            except OSError as error:
                raise UserError(f"{entry.path} is a link to a missing file ({error.strerror}): restore the file") from error
            line = f"{folder.parent.name}/{folder.name}/{entry.name} {stat.st_size} {stat.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
            if extension == "png" and stem.isdecimal() and stem == str(int(stem)):
                numbers.append(int(stem))
    gap = next((t for t, number in enumerate(sorted(numbers)) if t != number), None)
    if gap is not None:
        raise UserError(f"{folder / f'{gap}.png'} is missing, though later frames are there: frames count from 0.png")
    return len(numbers)
