"""Pictures of one predicted sequence: a strip with scores under its frames, and the frames of a GIF or MP4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cvae.prediction.video import Pixels, write_mp4

_GIVEN, _TRUE, _PREDICTED = (46, 160, 67), (175, 184, 193), (219, 109, 40)  # borders: green, grey, orange, as in training's
_INK, _FAINT, _PAPER, _EMPTY = (36, 41, 47), (110, 118, 129), (255, 255, 255), (246, 248, 250)
_COLUMNS = 12  # of a strip; longer ones are thinned
_BORDER, _GAP = 2, 8
_RATE = 7  # frames a second
_STILL = 900  # milliseconds of the last frame


@dataclass(frozen=True)
class Row:
    """One course of events: the truth, or a sample.

    Attributes:
        frames_THWC: all frames from 0 on, as far as they are there.
        scores_T2: PSNR and SSIM of each frame, NaN where there are none; None for the truth.
    """

    name: str
    frames_THWC: Pixels
    scores_T2: NDArray[np.float64] | None = None

    def caption(self, t: int) -> str:
        """The scores of frame t in words; empty where there are none."""
        if self.scores_T2 is None or t >= len(self.scores_T2) or not np.isfinite(self.scores_T2[t]).all():
            return ""
        psnr, ssim = self.scores_T2[t]
        return f"{psnr:.1f}  {ssim:.3f}"

    def means(self) -> str:
        """Mean PSNR and SSIM, a line each; empty where there are none."""
        if self.scores_T2 is None or not np.isfinite(self.scores_T2).any():
            return ""
        psnr, ssim = np.nanmean(self.scores_T2, axis=0)
        return f"{psnr:.2f} dB\nSSIM {ssim:.3f}"


def strip(rows: Sequence[Row], n_past: int, length: int, path: Path) -> None:
    """Write one PNG: a row for the truth and for each sample, given frames framed in green, scores under each prediction."""
    future = np.unique(np.linspace(n_past, length - 1, min(length - n_past, _COLUMNS - min(2, n_past))).round().astype(int))
    columns = [*range(max(0, n_past - 2), n_past), *map(int, future)]
    size, scale, left, top, line = rows[0].frames_THWC.shape[2], 2, 92, 24, 16
    cell = size * scale + _GAP
    sheet = Image.new("RGB", (left + len(columns) * cell, top + len(rows) * (cell + line) + _GAP + line), _PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(11)
    for column, t in enumerate(columns):
        draw.text((left + column * cell + size, top / 2), f"{t}", _INK, font, anchor="mm")
    for index, row in enumerate(rows):
        y = top + index * (cell + line)
        draw.text((8, y + size - 18), row.name, _INK, font, anchor="lm")
        draw.multiline_text((8, y + size - 6), row.means(), _FAINT, small, spacing=4)
        for column, t in enumerate(columns):
            x = left + column * cell
            if row.scores_T2 is None or t >= n_past:  # given frames stand in the first row
                _cell(sheet, x, y, row, t, n_past, scale)
            draw.text((x + size, y + size * scale + 11), row.caption(t), _INK, small, anchor="mm")
    if any(row.means() for row in rows):
        draw.text(
            (left, sheet.height - line / 2 - 2), "under each predicted frame: PSNR in dB, SSIM", _FAINT, small, anchor="lm"
        )
    sheet.save(path, format="PNG")


def moving(rows: Sequence[Row], n_past: int, length: int, head: bool = True) -> list[Pixels]:
    """The pictures of a GIF or MP4, ``HWC`` of even size: truth and samples side by side, three times enlarged.

    Args:
        head: whether a line above says which frame it is.
    """
    size, scale, top, below = rows[0].frames_THWC.shape[2], 3, 46 if head else 24, 24 if any(row.means() for row in rows) else 0
    cell = size * scale + _GAP
    width, height = (_GAP + len(rows) * cell) // 2 * 2, (top + cell + below) // 2 * 2
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    found = []
    for t in range(length):
        sheet = Image.new("RGB", (width, height), _PAPER)
        draw, given = ImageDraw.Draw(sheet), t < n_past
        if head:
            draw.text((_GAP, 12), f"frame {t}", _INK, font, anchor="lm")
            draw.text((_GAP + 70, 12), "given" if given else "predicted", _GIVEN if given else _PREDICTED, font, anchor="lm")
        for index, row in enumerate(rows):
            x = _GAP + index * cell
            draw.text((x, top - 12), row.name, _INK, font, anchor="lm")
            _cell(sheet, x, top, row, t, n_past, scale)
            draw.text((x, top + size * scale + 14), row.caption(t).replace("  ", " dB, SSIM "), _FAINT, small, anchor="lm")
        found.append(np.asarray(sheet))
    return found


def gif(pictures: Sequence[Pixels], path: Path) -> None:
    """Write an animated GIF that repeats; its end stands still for a moment."""
    frames = [Image.fromarray(each).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for each in pictures]
    durations = [1000 // _RATE] * (len(frames) - 1) + [_STILL]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)


def mp4(pictures: Sequence[Pixels], path: Path) -> bool:
    """Write an MP4, if something here can; its end stands still for a moment."""
    return write_mp4(path, [*pictures, *[pictures[-1]] * (_STILL * _RATE // 1000)], _RATE)


def _cell(sheet: Image.Image, x: int, y: int, row: Row, t: int, n_past: int, scale: int) -> None:
    """A frame, enlarged, with its border; an empty field where there is no such frame."""
    size = row.frames_THWC.shape[2] * scale
    if t >= len(row.frames_THWC):
        ImageDraw.Draw(sheet).rectangle((x, y, x + size - 1, y + size - 1), _EMPTY, _TRUE)
        return
    colour = _GIVEN if t < n_past else _TRUE if row.scores_T2 is None else _PREDICTED
    image = ImageOps.scale(Image.fromarray(row.frames_THWC[t]), scale, Image.Resampling.NEAREST)
    sheet.paste(ImageOps.expand(image, _BORDER, colour), (x - _BORDER, y - _BORDER))
