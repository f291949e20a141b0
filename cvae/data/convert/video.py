"""A folder of video files without actions: each file is an episode, decoded by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvae.console import natural_order
from cvae.data.convert.episodes import Episode, Found, Step
from cvae.data.convert.pixels import RULE, small
from cvae.data.layout import SPLITS
from cvae.errors import UserError

# How FFmpeg reads each: by the content it might take a file for a list of other files, and open those.
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".avi": "avi", ".gif": "gif", ".webm": "webm", ".mkv": "matroska"}


def is_video(source: Path) -> bool:
    return source.is_dir() and any(path.suffix.lower() in CONTAINERS for path in source.rglob("*"))


def find(source: Path) -> Found:
    """All video files in and below the source; folders train, validate and test in it are splits.

    Raises:
        UserError: there are none, or PyAV is not installed.
    """
    pyav()
    paths = [path for path in source.rglob("*") if path.suffix.lower() in CONTAINERS and path.is_file()]
    if not paths:
        raise UserError(f"{source} holds no videos ({', '.join(CONTAINERS)})")
    episodes = []
    for path in sorted(paths, key=lambda each: natural_order(str(each))):
        parts = path.relative_to(source).with_suffix("").parts
        split = parts[0] if len(parts) > 1 and parts[0] in SPLITS else None
        name = "_".join(parts[1:] if split else parts)
        episodes.append(Episode(name.lstrip(".") or "_", str(path), path, split))
    return Found(episodes, VideoReader(), {}, sorted(paths), [RULE])


class VideoReader:
    """Reads video files; see ``episodes.Reader``."""

    def steps(self, episode: Episode) -> Iterator[Step]:
        """Frames and conditions (A = 0)."""
        nothing = np.zeros(0)
        for _, frame_HWC in decoded(episode.where):
            yield small(frame_HWC), nothing


def decoded(path: Path, since: float | None = None) -> Iterator[tuple[float | None, Any]]:
    """The time in seconds and the pixels ``HWC`` of each frame of a video.

    Args:
        since: begin at the last key frame before this time; None for the first frame.
    """
    av = pyav()
    with av.open(str(path), format=CONTAINERS[path.suffix.lower()], metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1  # there is a worker for each core
        if since is not None:
            container.seek(int(since / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            yield frame.time, frame.to_ndarray(format="rgb24")


def pyav() -> Any:
    """PyAV; UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV: pip install 'cvae[data]'") from error
    return av
