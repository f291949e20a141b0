"""What is predicted: a sequence of the data, with its own actions or others, or a user's own pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvae.data.contract import Dataset, Split
from cvae.errors import UserError
from cvae.prediction.inputs import length_of, read_actions, read_pictures
from cvae.prediction.predictor import Predictor
from cvae.prediction.video import Pixels


@dataclass(frozen=True)
class Scene:
    """One sequence to predict.

    Attributes:
        name: what messages call it.
        row: its number, which decides the noise.
        frames_THWC: the given frames, and the truth after them as far as there is one.
        cond_TA: its conditions, a row a frame, at least ``length - 1`` of them.
        length: T, the frames of past and future.
        truth: what the pictures call the true frames.
    """

    name: str
    row: int
    frames_THWC: Pixels
    cond_TA: NDArray[np.float32]
    length: int
    truth: str = "truth"


@dataclass(frozen=True)
class Source:
    """A split of a dataset, and what it is called."""

    data: Dataset
    split: Split
    where: str


def of_data(model: Predictor, source: Source, row: int, n_future: int | None) -> Scene:
    """Sequence ``row`` of a split, from its frame 0.

    Raises:
        UserError: there is no such sequence, it is too short, or its conditions are not those of the model.
    """
    data, split, where = source.data, source.split, source.where
    if not 0 <= row < len(split):
        raise UserError(f"sequence={row}: {where} of {data} has {len(split)} sequences, 0 to {len(split) - 1}")
    if (width := split.cond_NA.shape[1]) != len(model.conditions):
        raise UserError(
            f"{data} has {width} values with each frame and the model takes {len(model.conditions)}"
            f" ({', '.join(model.conditions) or 'none'}): give the data that it was trained on, with their data.condition"
        )
    length, there = model.n_past + (n_future or model.n_future), int(split.lengths[row])
    if there < length:
        raise UserError(
            f"{where}/{split.name(row)} of {data} has {there} frames where {model.n_past} given and {length - model.n_past} "
            f"predicted ones are {length}: n_future={max(1, there - model.n_past)} or less"
        )
    frames_BTHWC, cond_BTA = split.gather(np.array([row]), 0, length)
    return Scene(f"{where}/{split.name(row)}", row, frames_BTHWC[0], cond_BTA[0], length)


def under_actions(model: Predictor, source: Source, row: int, n_future: int | None, path: Path) -> Scene:
    """Sequence ``row`` of a split under the actions of a file; the truth is what the recorded ones led to.

    Raises:
        UserError: as ``of_data``, and for a file that does not fit.
    """
    cond_TA = read_actions(path, model.conditions)
    length = length_of(model.n_past, n_future, model.n_future, None, len(cond_TA), str(path))
    scene = of_data(model, source, row, 1)
    known = min(length, int(source.split.lengths[row]))
    frames_BTHWC, _ = source.split.gather(np.array([row]), 0, known)
    return Scene(scene.name, row, frames_BTHWC[0], _a_row_a_frame(cond_TA, length), length, "recorded")


def own(model: Predictor, pictures: Path, actions: Path | None, n_future: int | None) -> Scene:
    """A user's own pictures: the first ``n_past`` are given, later ones are the truth.

    Raises:
        UserError: pictures or actions are missing, unreadable, or do not fit together.
    """
    if model.conditions and actions is None:
        raise UserError(
            f"frames={pictures} needs actions=FILE.csv: the model takes {len(model.conditions)} values with each frame "
            f"({', '.join(model.conditions)})"
        )
    cond_TA = None if actions is None else read_actions(actions, model.conditions)
    frames_THWC = read_pictures(pictures)
    rows = None if cond_TA is None else len(cond_TA)
    length = length_of(model.n_past, n_future, model.n_future, len(frames_THWC), rows, str(actions))
    cond_TA = np.zeros((length, 0), np.float32) if cond_TA is None else cond_TA
    return Scene(str(pictures), 0, frames_THWC[:length], _a_row_a_frame(cond_TA, length), length)


def _a_row_a_frame(cond_TA: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """``length`` rows; the last one, whose action leads beyond the last frame, may be missing in a file."""
    return cond_TA[:length] if len(cond_TA) >= length else np.concatenate([cond_TA, cond_TA[-1:]])
