"""A user's own pictures and actions: ``frames=FOLDER_OR_VIDEO`` and ``actions=FILE.csv``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cvae import files
from cvae.console import natural_order, say
from cvae.data.layout import BROKEN, IMAGE_SIZE, read_row, rgb
from cvae.errors import UserError, brief, first_line
from cvae.prediction.video import FORMATS, LARGEST, Pixels, read_video

LONGEST = 1000  # frames of a prediction, past and future
_PICTURES = (".png", ".jpg", ".jpeg")
_MOST = 20_000  # files of a folder
_BYTES = 1 << 26  # of a picture or a table


def read_pictures(place: Path, most: int = LONGEST) -> Pixels:
    """The first pictures of a folder in natural order (2 before 10), or the first frames of a video, as ``frames_THWC``.

    Of pictures of another size the square in the middle is resized.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    frames = _of_folder(place, most) if place.is_dir() else _of_video(place, most)
    sizes = list(dict.fromkeys(f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames))
    if sizes != [f"{IMAGE_SIZE}x{IMAGE_SIZE}"]:
        shown, small = ", ".join(sizes[:3]) + " ..." * (len(sizes) > 3), f"{IMAGE_SIZE}x{IMAGE_SIZE}"
        say(f"{place} has pictures of {shown}: of each the square in the middle is resized to {small} (bilinear)")
    return np.stack([fitted(frame) for frame in frames])


def fitted(frame_HWC: Pixels) -> Pixels:
    """A picture of any size: its middle square, resized by Pillow's bilinear filter, which averages over what it shrinks."""
    if frame_HWC.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return frame_HWC
    image = ImageOps.fit(Image.fromarray(frame_HWC), (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _of_folder(folder: Path, most: int) -> list[Pixels]:
    try:
        entries = [entry.name for entry in files.entries(folder, _MOST)]
    except files.Unreadable as error:
        raise UserError(f"frames={folder}: {error}: give a folder of pictures, or a video") from error
    names = [name for name in entries if Path(name).suffix.lower() in _PICTURES and not name.startswith(".")]
    if not names:
        raise UserError(f"frames={folder} holds no pictures: {', '.join(_PICTURES)} are read, in the order of their numbers")
    return [_picture(folder / name) for name in sorted(names, key=natural_order)[:most]]


def _picture(path: Path) -> Pixels:
    real = path.resolve()  # a folder of links to pictures is the user's own
    try:
        content = files.read(real.parent, real.name, _BYTES)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:  # for others Pillow may start programs
            if image.width * image.height > LARGEST:
                most = f"at most {LARGEST // 1_000_000} million pixels are read"
                raise UserError(f"{path} is {image.width}x{image.height}: {most}")
            return rgb(ImageOps.exif_transpose(image))
    except (files.Unreadable, *BROKEN) as error:
        why = "it is neither" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise UserError(f"{path} is not a readable PNG or JPEG ({why}): copy or convert it again") from error


def _of_video(path: Path, most: int) -> list[Pixels]:
    if not path.exists():
        raise UserError(f"frames={path} does not exist: give a folder of pictures, or a video")
    if not path.is_file() or path.suffix.lower() not in FORMATS:
        raise UserError(f"frames={path} is no video by its name: {', '.join(FORMATS)} are read, or a folder of pictures")
    return read_video(path, most)


def read_actions(path: Path, columns: Sequence[str]) -> NDArray[np.float32]:
    """The conditions ``TA`` of a file without header, a row a frame.

    Args:
        columns: what the model takes.

    Raises:
        UserError: it has other columns, a value that is no finite number, or no rows; or the model takes no conditions.
    """
    if not columns:
        raise UserError(f"actions={path}: this model takes no conditions; leave actions= out")
    real = path.resolve()  # the user may name a link
    try:
        text = files.read(real.parent, real.name, _BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"actions={path} does not exist: check the path") from error
    except (files.Unreadable, UnicodeDecodeError) as error:
        raise UserError(f"actions={path} cannot be read ({brief(error)}): a text file of numbers is needed") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"actions={path} is empty: a row a frame is needed, with {', '.join(columns)}")
    _refuse_actions_alone(path, len(lines[0].split(",")), columns)
    return np.array([read_row(line, path, row, columns) for row, line in enumerate(lines[:LONGEST])], np.float32)


def _refuse_actions_alone(path: Path, found: int, columns: Sequence[str]) -> None:
    """Positions follow from actions: those that were recorded, or none, would contradict other actions."""
    if found == 4 and len(columns) == 7:
        raise UserError(
            f"{path} has 4 columns, actions alone, and this model takes positions too ({', '.join(columns)}): positions that "
            "do not follow from the actions would contradict them; give all 7, or a model trained with data.condition=actions"
        )


def length_of(n_past: int, n_future: int | None, usual: int, pictures: int | None, rows: int | None, place: str) -> int:
    """T, how many frames the prediction has, past included.

    Args:
        n_future: what the user asks for; None to take what the files hold, else ``usual``.
        pictures: how many there are; None for a sequence of the data.
        rows: how many conditions the user gives; None if the model takes none.
        place: what the conditions are called in a message.

    Raises:
        UserError: the counts do not fit together.
    """
    if pictures is not None and pictures < n_past:
        raise UserError(f"frames= has too few pictures ({pictures}): the model is given {n_past}")
    if n_future is not None:
        length = n_past + n_future
    elif rows is None:
        length = n_past + usual
    else:
        length = pictures if pictures is not None and rows == pictures - 1 else rows
        if pictures is not None and rows < pictures - 1:
            fitting = f"n_future={max(1, rows + 1 - n_past)}"
            raise UserError(f"{place} has {rows} rows for {pictures} pictures: give a row a picture, or {fitting}")
    if rows is not None and rows < length - 1:
        fitting = f", or n_future={rows + 1 - n_past}" if rows >= n_past else ""
        raise UserError(
            f"{place} has {rows} rows, which is too few for {n_past} given and {length - n_past} predicted frames: give at "
            f"least {length - 1}, a row a frame{fitting}"
        )
    if length <= n_past:
        raise UserError(f"{place} has {rows} rows and the model is given {n_past} frames: give a row a frame, and more of them")
    if length > LONGEST:
        raise UserError(f"{length} frames are more than {LONGEST}: lower n_future")
    return length
