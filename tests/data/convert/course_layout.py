"""Sequences of a folder in the course layout, read plainly; as a program, written anew as MP4 files without actions.

python course_layout.py ROOT FOLDER    # needs PyAV
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def sequences(split: Path) -> Iterator[tuple[str, list[np.ndarray], np.ndarray, np.ndarray]]:
    """Name, frames ``HWC``, actions and positions of each sequence of a split."""
    for folder in sorted(split.glob("*/*"), key=lambda each: (each.parent.name, int(each.name))):
        actions, positions = (
            np.loadtxt(folder / name, delimiter=",", ndmin=2) for name in ("actions.csv", "endeffector_positions.csv")
        )
        frames = [np.asarray(Image.open(folder / f"{t}.png")) for t in range(len(list(folder.glob("*.png"))))]
        yield f"{folder.parent.name}_{folder.name}", frames, actions[: len(frames)], positions[: len(frames)]


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())


if __name__ == "__main__":
    root, out = map(Path, sys.argv[1:])
    for split in ("train", "validate", "test"):
        for name, frames, _, _ in sequences(root / split):
            write_video(out / split / f"{name}.mp4", frames)
