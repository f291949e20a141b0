"""Sequences of a folder in the course layout, read plainly; as a program, written anew as MP4 files without actions.

python course_layout.py ROOT FOLDER    # needs PyAV
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

CODECS = {"mp4": "libx264", "avi": "mpeg4", "gif": "gif", "webm": "libvpx-vp9"}


def sequences(split: Path) -> Iterator[tuple[str, list[np.ndarray], np.ndarray, np.ndarray]]:
    """Name, frames ``HWC``, actions and positions of each sequence of a split."""
    for folder in sorted(split.glob("*/*"), key=lambda each: (each.parent.name, int(each.name))):
        actions, positions = (
            np.loadtxt(folder / name, delimiter=",", ndmin=2) for name in ("actions.csv", "endeffector_positions.csv")
        )
        frames = [np.asarray(Image.open(folder / f"{t}.png")) for t in range(len(list(folder.glob("*.png"))))]
        yield f"{folder.parent.name}_{folder.name}", frames, actions[: len(frames)], positions[: len(frames)]


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    """Frames ``HWC`` as a video in the container that the name tells."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())


if __name__ == "__main__":
    root, out = map(Path, sys.argv[1:])
    for split in ("train", "validate", "test"):
        for name, frames, _, _ in sequences(root / split):
            write_video(out / split / f"{name}.mp4", frames)
