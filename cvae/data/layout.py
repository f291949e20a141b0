"""The course layout on disk, and reading it with errors that name the file.

    ROOT/{train,validate,test}/<traj folder>/<k>/{0..29}.png
                                                 actions.csv                 4 columns: dx, dy, dz, gripper
                                                 endeffector_positions.csv   3 columns: x, y, z

No headers, a row a frame; row t of both files belongs to frame t, and the action of row t leads to frame t+1. The spelling
``endeffecter_positions.csv`` is accepted too. Other tables are declared in ROOT/conditions.json (``cvae.data.tables``). Folder
names are free; sequences come in natural order (2 before 10). Frames may also be named in another way (``Naming``), one way a
folder.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvae.errors import UserError, first_line

SPLITS = ("train", "validate", "test")
IMAGE_SIZE = 64
TABLES = {"actions.csv": ("dx", "dy", "dz", "gripper"), "endeffector_positions.csv": ("x", "y", "z")}  # columns
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)  # Pillow's
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = float(np.finfo(np.float32).max)
_MOST = 64 << 20  # bytes of a frame or a table


@dataclass(frozen=True)
class Naming:
    """How the frames of a sequence are named: a prefix, the frame's number in at least ``width`` digits, an extension."""

    prefix: str = ""
    width: int = 1
    extension: str = "png"
    first: int = 0
    """The number of the first frame, 0 or 1."""

    def name(self, t: int) -> str:
        """The file of frame t, counted from 0."""
        return f"{self.prefix}{self.first + t:0{self.width}d}.{self.extension}"


COURSE = Naming()


def refuse_absent(root: Path, split: str) -> None:
    """Raise UserError unless there are ROOT and its folder ``split``, and both can be read."""
    needed = f"data.root needs the folders {', '.join(SPLITS)}"
    folder, absent = root, f"{root} is not a folder: set data.root to the folder that holds {', '.join(SPLITS)}"
    try:
        with os.scandir(root) as entries:
            found = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) or entry.is_symlink())
        folder, absent = root / split, f"{root / split} is missing (found: {', '.join(found) or 'no folders'}): {needed}"
        with os.scandir(folder):
            pass
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(absent) from error
    except (OSError, ValueError) as error:  # no permission, a link to itself, a name that is too long
        raise UserError(f"{folder} cannot be read ({getattr(error, 'strerror', error)}): {needed}") from error


def read_frames(folder: Path, length: int, naming: Naming = COURSE) -> NDArray[np.uint8]:
    """Decode the frames of a sequence to ``frames_THWC``.

    Raises:
        UserError: a file is not a readable PNG or JPEG, or not 64x64.
    """
    frames_THWC = np.empty((length, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for t in range(length):
        frames_THWC[t] = read_frame(folder / naming.name(t))[0]
    return frames_THWC


def read_frame(path: Path) -> tuple[NDArray[np.uint8], str]:
    """Decode a frame to ``HWC``, and tell Pillow's name of its colours.

    Raises:
        UserError: it is not a readable PNG or JPEG, or not 64x64.
    """
    try:
        content = content_of(path)
        check_chunks(content)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:  # for others Pillow may start programs
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                raise UserError(f"{path} is {image.width}x{image.height}: frames must be {IMAGE_SIZE}x{IMAGE_SIZE}, resize it")
            return rgb(image), image.mode
    except BROKEN as error:
        kind = path.suffix[1:].upper()
        raise UserError(f"{path} is not a readable {kind} ({first_line(error)}): copy or convert it again") from error


def content_of(path: Path) -> bytes:
    """The bytes of a frame or a table; ValueError if there are too many for either."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > _MOST:
            raise ValueError(f"it has more than {_MOST >> 20} MiB")
        return file.read()


def check_chunks(content: bytes) -> None:
    """Raise ValueError if a PNG lacks its end or a chunk fails its CRC: Pillow does not look at all of them."""
    for broken in broken_chunks(content):
        raise ValueError(broken)


def broken_chunks(content: bytes) -> Iterator[str]:
    """What is wrong with the chunks of a PNG, one after the other; nothing of other files."""
    if not content.startswith(_PNG):
        return
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        end = place + 8 + length
        if len(content) < end + 4:
            yield f"it is cut off in the chunk at byte {place}"
            return
        if zlib.crc32(memoryview(content)[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            yield f"chunk {kind.decode('latin-1')!r} at byte {place} fails its CRC"
        place = end + 4


def rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Any picture as ``HWC`` bytes of red, green and blue."""
    if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
        grey_HW = (np.asarray(image, np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    if "transparency" in image.info:  # Pillow warns of palettes with an alpha table unless it is asked for
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def read_table(folder: Path, file: str, length: int, names: Sequence[str] = ()) -> tuple[NDArray[np.float32], int] | None:
    """Read the first ``length`` rows of a sequence's ``file``, and count all; None if it is not there.

    Args:
        names: those of its columns; they can be left out for one of TABLES.

    Raises:
        UserError: a row has another number of columns, a value is not a finite number, or rows are missing.
    """
    names = names or TABLES[file]
    columns = len(names)
    spellings = (folder / file, folder / file.replace("effector", "effecter"))
    path = next((each for each in spellings if each.is_file()), None)
    if path is None:
        return None
    try:
        text = content_of(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        lines = text.split("\n")  # splitlines() would also end a row at a damaged sign
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): a text file of {columns} columns is needed") from error
    lines = [line for line in lines if line.strip()]
    if len(lines) < length:
        raise UserError(f"{path} has {len(lines)} rows for {length} frames: a row a frame is needed")
    table = np.empty((length, columns), np.float32)
    for row, line in enumerate(lines[:length]):
        table[row] = read_row(line, path, row, names)
    return table, len(lines)


def read_row(line: str, path: Path, row: int, columns: Sequence[str]) -> list[float]:
    """The values of a line of a table; UserError for another number of columns, or a value that is no finite number."""
    cells = line.split(",")
    if len(cells) != len(columns):
        raise UserError(f"{path} row {row + 1} has {len(cells)} columns: {len(columns)} are needed ({', '.join(columns)})")
    return [_finite(cell, path, row) for cell in cells]


def _finite(cell: str, path: Path, row: int) -> float:
    try:
        value = math.nan if "_" in cell else float(cell)  # Python reads 0_5 as 5
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise UserError(f"{path} row {row + 1} holds {cell.strip()[:40]!r}: every value must be a finite number")
    return value
