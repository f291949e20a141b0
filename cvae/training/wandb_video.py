"""A sample video that is small enough to be sent."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageSequence

# What is tried in turn: which frames are kept, the number of colours, and the size of the sides. A sample is drawn three times
# enlarged: at a third each pixel of the data is one pixel.
_TRIES = ((1, 256, 2 / 3), (1, 256, 1 / 3), (1, 64, 1 / 3), (2, 64, 1 / 3), (4, 32, 1 / 3))


def within(gif: Path, most: int) -> bytes | None:
    """A GIF in at most so many bytes: with fewer pixels, then fewer colours, then fewer frames; None if that is not enough."""
    if gif.stat().st_size <= most:
        return gif.read_bytes()
    with Image.open(gif) as image:
        frames = [(frame.convert("RGB"), int(frame.info.get("duration", 150))) for frame in ImageSequence.Iterator(image)]
    return next((content for content in _smaller(frames) if len(content) <= most), None)


def _smaller(frames: list[tuple[Image.Image, int]]) -> Iterator[bytes]:
    for step, colours, size in _TRIES:
        width, height = (max(1, round(side * size)) for side in frames[0][0].size)
        # A frame stays for the time of those that are left out after it.
        durations = [sum(time for _, time in frames[first : first + step]) for first in range(0, len(frames), step)]
        resized = [frame.resize((width, height), Image.Resampling.BOX) for frame, _ in frames[::step]]
        # One palette for all frames, so that what stands still is the same in all of them, and is written once.
        sheet = Image.new("RGB", (width, height * len(resized)))
        for index, frame in enumerate(resized):
            sheet.paste(frame, (0, index * height))
        palette = sheet.quantize(colours, method=Image.Quantize.MEDIANCUT)
        pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in resized]
        buffer = io.BytesIO()
        pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
        yield buffer.getvalue()
