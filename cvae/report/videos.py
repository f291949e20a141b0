"""The sample videos that a report shows: of which runs, and read from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from cvae import files
from cvae.errors import brief
from cvae.pictures import Pixels, read_gif
from cvae.runs.collection import main_objective
from cvae.runs.run import Run

_MAX_FRAMES = 60  # of a sample video
_MAX_BYTES = 1 << 24  # of its file


@dataclass(frozen=True)
class Video:
    """A run's latest sample video: truth and prediction of some sequences."""

    true_STHWC: Pixels
    predicted_STHWC: Pixels
    n_past: int
    epoch: int


def best_of_each_group(runs: Sequence[Run], settings: Sequence[str]) -> list[Run]:
    """All runs: first the best one of each group of settings, then the second best ones, and so on."""
    groups: dict[str, list[Run]] = {}
    objective = main_objective(runs)
    for run in sorted(runs, key=lambda run: objective.rank((run.best(objective.key) or [None])[0])):
        groups.setdefault(str([run.settings.get(key) for key in settings if key != "seed"]), []).append(run)
    return [run for rank in zip_longest(*groups.values()) for run in rank if run is not None]


def read_video(run: Run) -> Video | str:
    """A run's latest sample video; why it cannot be shown."""
    n_past = run.settings["n_past"]
    try:
        content = files.read(run.folder, run.video, _MAX_BYTES)
        true_STHWC, predicted_STHWC = read_gif(content, min(n_past + run.settings["n_future"], _MAX_FRAMES))
        return Video(true_STHWC, predicted_STHWC, n_past, int(Path(run.video).stem.rpartition("_")[2]))
    except files.Unreadable as error:
        return str(error)
    except Exception as error:  # Pillow raises many kinds of errors for a damaged file
        return f"{run.video} cannot be shown ({brief(error)})"
