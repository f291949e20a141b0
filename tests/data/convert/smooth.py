"""Smooth moving pictures for video writers, by a formula; and the stated crop and resize, written out once more."""

from __future__ import annotations

import numpy as np

HEIGHT, WIDTH = 80, 96


def frame_of(episode: int, t: int) -> np.ndarray:
    """A picture ``HWC`` whose colours tell the episode, and in which a bright spot moves with t."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    spot = np.exp(-((x - 30 - 3 * t) ** 2 + (y - 40) ** 2) / 300)
    return np.stack([60 + 120 * spot, 40 + 30 * (episode % 6) + 0 * x, 80 + x / 2], axis=-1).astype(np.uint8)


def resized(frame_HWC: np.ndarray) -> np.ndarray:
    """The largest square in the middle, by Pillow's bicubic filter to 64x64."""
    from PIL import Image

    height, width = frame_HWC.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(frame_HWC[top : top + side, left : left + side])
    return np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2)))
