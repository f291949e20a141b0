"""Frames side by side: strips, contact sheets and GIFs."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, ImageSequence

_GIVEN, _TRUE, _PREDICTED = (46, 160, 67), (175, 184, 193), (219, 109, 40)  # borders: green, grey, orange
_INK, _QUIET, _PAPER = (36, 41, 47), (110, 118, 129), (255, 255, 255)

Pixels = NDArray[np.uint8]


def strip(true_STHWC: Pixels, predicted_STHWC: Pixels, n_past: int, names: Sequence[str], path: Path | BinaryIO) -> None:
    """Write one PNG: for each sequence the truth above the prediction, given frames framed in green.

    Long videos are thinned to a dozen columns; the numbers at the top say which frames.
    """
    length = true_STHWC.shape[1]
    future = np.unique(np.linspace(n_past, length - 1, min(length - n_past, 12 - min(2, n_past))).round().astype(int))
    columns = [*range(max(0, n_past - 2), n_past), *future]
    scale, gap, left, top = 2, 4, 100, 22
    cell = true_STHWC.shape[2] * scale + gap
    height = top + len(true_STHWC) * (2 * cell + 3 * gap)
    sheet = Image.new("RGB", (left + len(columns) * cell + gap, height), _PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(10)
    for column, t in enumerate(columns):
        draw.text((left + column * cell + cell / 2, top / 2), f"{t}", _INK, font, anchor="mm")
    for s, name in enumerate(names):
        y = top + s * (2 * cell + 3 * gap)
        given = [t < n_past for t in columns]
        _rows(sheet, left, y, cell, scale, (true_STHWC[s, columns], predicted_STHWC[s, columns]), given)
        draw.text((8, y + cell), _cut(name, small, left - 14), _QUIET, small, anchor="lm")
    sheet.save(path, "PNG")


def contact_sheet(rows: Sequence[tuple[str, Pixels, Sequence[int]]], path: Path | BinaryIO) -> None:
    """Write one PNG with a row a sequence: its name, frames ``NHWC`` twice enlarged, and their numbers above them."""
    scale, gap, left, top = 2, 4, 130, 16
    size = rows[0][1].shape[1] * scale
    across, down = size + gap, size + gap + top
    most = max(len(frames_NHWC) for _, frames_NHWC, _ in rows)
    sheet = Image.new("RGB", (left + most * across, len(rows) * down), _PAPER)
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for row, (name, frames_NHWC, numbers) in enumerate(rows):
        y = row * down + top
        draw.text((6, y + size / 2), _cut(name, small, left - 12), _INK, small, anchor="lm")
        for column, (frame_HWC, number) in enumerate(zip(frames_NHWC, numbers, strict=True)):
            x = left + column * across
            draw.text((x + size / 2, y - top / 2), f"{number}", _QUIET, small, anchor="mm")
            sheet.paste(ImageOps.scale(Image.fromarray(frame_HWC), scale, Image.Resampling.NEAREST), (x, y))
    sheet.save(path, "PNG")


def film(frames_THWC: Pixels, values_TA: NDArray[np.float32], names: Sequence[str], title: str, path: Path | BinaryIO) -> None:
    """Write one animated GIF of a sequence, with each frame's values as arrows beside it.

    ``dx`` and ``dy`` are one arrow in a circle, dx to the right and dy up; each other value is an arrow to the right of its
    middle, or to the left if it is negative. The longest of a name in the sequence is as long as there is room.
    """
    scale, gap, top, wide = 5, 8, 22, 150
    size = frames_THWC.shape[1] * scale
    most_A = np.abs(values_TA).max(axis=0, initial=0)
    shares_TA = values_TA / np.where(most_A > 0, most_A, 1)
    compass = [names.index(name) for name in ("dx", "dy") if name in names]
    compass = compass if len(compass) == 2 else []
    bars = [column for column in range(len(names)) if column not in compass]
    pages = []
    for t, frame_HWC in enumerate(frames_THWC):
        sheet = Image.new("RGB", (size + 2 * gap + (wide if names else 0), top + size + gap), _PAPER)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        draw.text((gap, top / 2), f"{title}  frame {t}", _INK, font, anchor="lm")
        sheet.paste(ImageOps.scale(Image.fromarray(frame_HWC), scale, Image.Resampling.NEAREST), (gap, top))
        left, y = size + 2 * gap, top
        if compass:
            _compass(draw, left, y, wide - gap, *shares_TA[t, compass])
            y += wide
        for column in bars[: (top + size - y) // 34]:
            said = f"{names[column]} {values_TA[t, column]:.3g}"
            draw.text((left, y + 8), said, _INK, ImageFont.load_default(11), anchor="lm")
            middle = left + (wide - gap) / 2
            draw.line((left, y + 24, left + wide - gap, y + 24), _TRUE)
            _arrow(draw, (middle, y + 24), (middle + shares_TA[t, column] * (wide - gap) / 2, y + 24))
            y += 34
        pages.append(sheet.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    durations = [150] * (len(pages) - 1) + [900]
    pages[0].save(path, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=False)


def _compass(draw: ImageDraw.ImageDraw, left: float, top: float, size: float, dx: float, dy: float) -> None:
    radius, x, y = size / 2 - 12, left + size / 2, top + size / 2
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_TRUE)
    small = ImageFont.load_default(11)
    draw.text((x, y - radius - 6), "dy", _INK, small, anchor="mm")
    draw.text((x + radius + 1, y - 8), "dx", _INK, small, anchor="mm")
    reach = radius / max(1.0, float(np.hypot(dx, dy)))
    _arrow(draw, (x, y), (x + dx * reach, y - dy * reach))


def _arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow, or a dot where it has no length."""
    along = np.subtract(end, start)
    length = float(np.hypot(*along))
    if length < 2:
        draw.ellipse((start[0] - 2, start[1] - 2, start[0] + 2, start[1] + 2), _PREDICTED)
        return
    head = min(9.0, length) * along / length
    back, side = np.subtract(end, head), 0.5 * np.array([-head[1], head[0]])
    draw.line((*start, *back), _PREDICTED, 3)
    draw.polygon([tuple(end), tuple(back + side), tuple(back - side)], _PREDICTED)


# A sample GIF: where its cells begin, and how far they are enlarged.
_SCALE, _GAP, _LEFT, _TOP = 3, 6, 84, 24


def gif(true_STHWC: Pixels, predicted_STHWC: Pixels, n_past: int, names: Sequence[str], path: Path) -> None:
    """Write one animated GIF: the sequences side by side, truth above prediction, three times enlarged."""
    cell = true_STHWC.shape[2] * _SCALE + _GAP
    font = ImageFont.load_default(13)
    frames = []
    for t in range(true_STHWC.shape[1]):
        sheet = Image.new("RGB", (_LEFT + len(names) * cell + _GAP, _TOP + 2 * cell + _GAP), _PAPER)
        draw = ImageDraw.Draw(sheet)
        given = t < n_past
        draw.text((8, _TOP / 2), f"frame {t}", _INK, font, anchor="lm")
        draw.text((_LEFT, _TOP / 2), "given" if given else "predicted", _GIVEN if given else _PREDICTED, font, anchor="lm")
        _rows(sheet, _LEFT, _TOP, cell, _SCALE, (true_STHWC[:, t], predicted_STHWC[:, t]), [given] * len(names))
        frames.append(sheet.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    durations = [150] * (len(frames) - 1) + [900]  # the end stands still for a moment
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)


_MOST = 8  # sequences of a sample GIF; training writes four


def read_gif(content: bytes, length: int, size: int = 64) -> tuple[Pixels, Pixels]:
    """The truth and the prediction that ``gif`` wrote, as ``STHWC``, up to ``length`` frames; colours are the GIF's 256.

    The bytes may come from a stranger. What would be larger in memory than a sample video is refused before it is decoded.

    Raises:
        OSError: it is damaged.
        ValueError: it was not written by ``gif``.
    """
    cell = size * _SCALE + _GAP
    _refuse_odd_gif(content)
    with Image.open(io.BytesIO(content), formats=["GIF"]) as image:
        count, rest = divmod(image.width - _LEFT - _GAP, cell)
        if rest or not 1 <= count <= _MOST or image.height != _TOP + 2 * cell + _GAP:
            raise ValueError("its size is not that of a sample video")
        picked = slice(0, size * _SCALE, _SCALE)
        frames = []
        for frame in islice(ImageSequence.Iterator(image), length):
            cells_HWC = np.asarray(frame.convert("RGB"))[_TOP : _TOP + 2 * cell, _LEFT : _LEFT + count * cell]
            frames.append(cells_HWC.reshape(2, cell, count, cell, 3)[:, picked, :, picked].copy())
    true_STHWC, predicted_STHWC = np.stack(frames).transpose(1, 3, 0, 2, 4, 5)
    return true_STHWC, predicted_STHWC


def _refuse_odd_gif(content: bytes) -> None:
    """Raise ValueError unless a GIF has the blocks that ``gif`` writes, few of them, and all frames inside its screen.

    A decoder enlarges the screen for a frame that leaves it, and some take quadratic time for comments.
    """
    try:
        width, height, flags = struct.unpack_from("<6xHHB", content)
        at, blocks = 13 + _palette(flags), 0
        while (kind := content[at]) != 0x3B:
            if kind == 0x2C:
                left, top, across, down, flags = struct.unpack_from("<HHHHB", content, at + 1)
                if left + across > width or top + down > height:
                    raise ValueError("a frame leaves its screen")
                at += 11 + _palette(flags)
            elif kind == 0x21 and content[at + 1] in (0xF9, 0xFF):  # of a frame's duration, and of the repetition
                at += 2
            else:
                raise ValueError("it has blocks that sample videos have not")
            while content[at]:
                at, blocks = at + content[at] + 1, blocks + 1
            at += 1
            if blocks > 1000 + len(content) // 100:  # full ones have 255 bytes
                raise ValueError("it has too many blocks")
    except (IndexError, struct.error):
        raise ValueError("it is cut off") from None


def _palette(flags: int) -> int:
    """The bytes of a palette, if there is one."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _cut(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a name that is too long, which tells sequences apart better than its beginning."""
    cuts = [name, *("…" + name[first:] for first in range(1, len(name)))]
    return next((cut for cut in cuts if font.getlength(cut) <= width), cuts[-1])


def _rows(sheet: Image.Image, left: int, y: int, cell: int, scale: int, pair: Sequence[Pixels], given: list[bool]) -> None:
    """A row of true frames and below it one of predicted frames (``pair``, each NHWC), with labels and coloured borders."""
    for label, frames_NHWC, colour in zip(("truth", "prediction"), pair, (_TRUE, _PREDICTED), strict=True):
        ImageDraw.Draw(sheet).text((8, y + cell / 2), label, _INK, ImageFont.load_default(13), anchor="lm")
        for n, frame_HWC in enumerate(frames_NHWC):
            image = ImageOps.scale(Image.fromarray(frame_HWC), scale, Image.Resampling.NEAREST)
            sheet.paste(ImageOps.expand(image, 2, _GIVEN if given[n] else colour), (left + n * cell - 2, y - 2))
        y += cell
