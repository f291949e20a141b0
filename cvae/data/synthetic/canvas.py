"""Images of a sequence to paint on, and shapes as signed distances in pixels. Points (suffix 2) are a row and a column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvae.data.synthetic.world import FRAMES, Array

SIZE = 64
EDGE = 1.3  # pixels over which an edge fades


class Canvas:
    """The images of a sequence, with a margin all round so that what leaves the view can be painted like the rest."""

    MARGIN = 16  # at least half a window

    def __init__(self, ground_CHW: Array) -> None:
        margin = self.MARGIN
        padded_CHW = np.pad(ground_CHW, ((0, 0), (margin, margin), (margin, margin)))
        self.pixels_CTHW = np.repeat(padded_CHW[:, None].astype(np.float32), FRAMES, axis=1)

    def whole(self) -> Window:
        """The window that is the image; what is painted there is painted at once."""
        inner, span = slice(self.MARGIN, -self.MARGIN), np.arange(SIZE, dtype=np.float32)
        return Window(self.pixels_CTHW[:, :, inner, inner], span[None, :, None], span[None, None, :])

    @contextmanager
    def around(self, centre_T2: Array, half: int) -> Iterator[Window]:
        """A window that moves with a centre; what is painted there is put back at the end."""
        span = np.arange(-half, half + 1)
        middle_T2 = np.clip(np.rint(centre_T2), half - self.MARGIN, SIZE + self.MARGIN - half - 1).astype(int)
        rows, columns = (middle_T2[:, 0, None] + span)[:, :, None], (middle_T2[:, 1, None] + span)[:, None]
        wide = SIZE + 2 * self.MARGIN
        # Flat indices: many times faster than an index for each axis.
        flat = (np.arange(FRAMES)[:, None, None] * wide + rows + self.MARGIN) * wide + columns + self.MARGIN
        planes = self.pixels_CTHW.reshape(3, -1)
        pixels_CTHW = np.stack([plane[flat] for plane in planes])
        yield Window(pixels_CTHW, rows.astype(np.float32), columns.astype(np.float32))
        for plane, pixels_THW in zip(planes, pixels_CTHW, strict=True):
            plane[flat] = pixels_THW

    def frames_THWC(self) -> Array:
        bytes_CTHW = (np.clip(self.whole().pixels_CTHW, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        return np.ascontiguousarray(bytes_CTHW.transpose(1, 2, 3, 0))


@dataclass
class Window:
    """A part of every image, and where in the image its pixels are."""

    pixels_CTHW: Array
    rows: Array
    columns: Array

    def offsets(self, centre_T2: Array) -> tuple[Array, Array]:
        """How far down and across from a centre the pixels lie."""
        down, across = per_frame(centre_T2.T)
        return self.rows - down, self.columns - across

    def paint(self, distance_THW: Array, colour: npt.ArrayLike, *, soft: float = EDGE, cover: float = 1.0) -> None:
        """Cover where the signed distance (pixels) is negative with a colour: 3 numbers, or T x 3."""
        alpha_THW = distance_THW * np.float32(-cover / soft)
        alpha_THW += np.float32(cover / 2)
        np.clip(alpha_THW, 0, np.float32(cover), out=alpha_THW)
        colour_CT11 = per_frame(np.broadcast_to(colour, (FRAMES, 3)).T)
        for plane_THW, shade_T11 in zip(self.pixels_CTHW, colour_CT11, strict=True):
            plane_THW += alpha_THW * (shade_T11 - plane_THW)


def box(down: Array, across: Array, half_2: Array, corner: float) -> Array:
    """Signed distance to a box with rounded corners."""
    below, beside = np.abs(down) - (half_2[0] - corner), np.abs(across) - (half_2[1] - corner)
    outside = np.hypot(np.maximum(below, 0), np.maximum(beside, 0))
    distance: Array = outside + np.minimum(np.maximum(below, beside), 0) - corner
    return distance


def capsule(window: Window, from_T2: Array, to_T2: Array, widths: tuple[float, float]) -> Array:
    """Signed distance to a thick line whose half width goes from one to the other."""
    down, across = window.offsets(from_T2)
    way_down, way_across = per_frame((to_T2 - from_T2).T)
    length = np.maximum(np.hypot(way_down, way_across), np.float32(1e-3))
    along = (down * way_down + across * way_across) / (length * length)
    np.clip(along, 0, 1, out=along)
    off_down, off_across = down - along * way_down, across - along * way_across
    distance: Array = np.sqrt(off_down * off_down + off_across * off_across)
    distance -= np.float32(widths[0]) + along * np.float32(widths[1] - widths[0])
    return distance


def per_frame(values_xT: Array) -> Array:
    """Numbers of a frame in a form that meets T H W."""
    return values_xT.astype(np.float32)[..., None, None]
