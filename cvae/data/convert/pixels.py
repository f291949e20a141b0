"""Pictures of any size as frames of 64x64."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvae.data.convert.episodes import BadEpisode
from cvae.data.layout import BROKEN, IMAGE_SIZE, check_chunks, rgb
from cvae.errors import first_line

RULE = (
    f"Frames of {IMAGE_SIZE}x{IMAGE_SIZE} are kept as they are. Of others the largest square in the middle is cut out and "
    f"resized to {IMAGE_SIZE}x{IMAGE_SIZE} by Pillow's bicubic filter."
)
_LARGEST = 1 << 26  # pixels


def small(frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame of 64x64, by the rule above."""
    height, width = frame_HWC.shape[:2]
    if (height, width) == (IMAGE_SIZE, IMAGE_SIZE):
        return np.asarray(frame_HWC)
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square_HWC = np.ascontiguousarray(frame_HWC[top : top + side, left : left + side])
    return np.asarray(Image.fromarray(square_HWC).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def picture(content: bytes) -> NDArray[np.uint8]:
    """The frame that the bytes of a PNG or JPEG file hold.

    Raises:
        BadEpisode: they are none, or the picture is too large.
    """
    try:
        check_chunks(content)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _LARGEST:
                raise BadEpisode(f"a picture in it has {image.width}x{image.height} pixels")
            return small(rgb(image))
    except BROKEN as error:
        raise BadEpisode(f"a picture in it cannot be read ({first_line(error)})") from error
