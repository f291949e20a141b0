"""What the package asks of data: two protocols, and what follows from them for data of any kind.

Training, validation and the checks before a multirun know these members and nothing else of a dataset. A class of your own
with these members is one; it derives from nothing. Where all arrays are at hand, ``cvae.data.arrays.ArrayData`` makes a
dataset from one function. docs/extending.md shows both ways.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cvae.errors import UserError, first_line

Frames = NDArray[np.uint8]
Conditions = NDArray[np.float32]
Indices = NDArray[np.int64]


class Split(Protocol):
    """Sequences of 64x64 RGB frames with A condition values a frame. A = 0 means that there are no conditions.

    Reading is a pure function of the arguments and may happen in a thread beside the training step.
    """

    def __len__(self) -> int:
        """The number of sequences, at least 1."""

    @property
    def lengths(self) -> Indices:
        """The number of frames of each sequence, int64."""

    @property
    def cond_NA(self) -> Conditions:
        """The conditions of all frames, float32 and finite: a row a frame, one sequence after another."""

    @property
    def fingerprint(self) -> str:
        """A hash of the split's content."""

    def name(self, index: int) -> str:
        """What messages and sample pictures call sequence ``index``."""

    def gather(self, indices: Indices, starts: Indices | int, length: int) -> tuple[Frames, Conditions]:
        """B windows: ``length`` frames from frame ``starts[b]`` of sequence ``indices[b]``; one start may stand for all.

        Returns:
            uint8 ``frames_BTHWC`` and float32 ``cond_BTA``, not normalised. Row t of the conditions belongs to frame t; the
            action in it leads to frame t+1.
        """


class Dataset(Protocol):
    """Train, validation and test sequences, and how training takes them.

    Making one is cheap and reads nothing: its splits open when they are first used. ``str(data)`` is a few words for the
    table that a run prints at its start, and for messages: where the data lie, for example.
    """

    normalise: bool
    """Whether the model standardises conditions by the train split's mean and standard deviation."""
    random_start: bool
    """Whether training windows start anywhere in a sequence, or always at frame 0."""
    resident: str
    """Where the train split lies in training on a GPU: ``gpu``, ``host`` or ``auto`` (see ``training.feed``)."""

    @property
    def train(self) -> Split: ...
    @property
    def validate(self) -> Split: ...
    @property
    def test(self) -> Split:
        """Only evaluation uses it; UserError if there is none."""

    @property
    def fingerprint(self) -> str:
        """A hash of the contents of train and validate: equal data have equal fingerprints, wherever they lie."""

    def check(self) -> None:
        """Raise UserError if the data are not there. It is asked before a multirun, so it is cheap and reads no frame."""


def condition_names(split: Split) -> list[str]:
    """What a split calls the values of a condition (``conditions``, which it may have); their numbers if it does not say."""
    width, names = split.cond_NA.shape[1], getattr(split, "conditions", ())
    given = isinstance(names, (list, tuple)) and len(names) == width and all(isinstance(name, str) for name in names)
    return list(names) if given else numbered(width)


def numbered(width: int) -> list[str]:
    """The names of conditions that have none."""
    return [f"condition {column}" for column in range(1, width + 1)]


def check_lengths(data: Dataset, n_past: int, n_future: int) -> None:
    """Raise UserError unless every sequence of train and validate has ``n_past + n_future`` frames."""
    for which, split in (("train", data.train), ("validate", data.validate)):
        check_split(f"{which} of {data}", split)
        shortest = int(split.lengths.argmin())
        if split.lengths[shortest] < n_past + n_future:
            raise UserError(
                f"{which}/{split.name(shortest)} of {data} has {split.lengths[shortest]} frames where n_past + n_future = "
                f"{n_past} + {n_future} = {n_past + n_future} are needed: lower n_future, or remove the sequence"
            )


def check_split(what: str, split: Split) -> None:
    """Raise UserError unless a split is as ``Split`` says, as far as its conditions and a window of two sequences tell."""
    lengths, cond_NA, fingerprint = split.lengths, split.cond_NA, split.fingerprint
    if not isinstance(lengths, np.ndarray) or lengths.dtype.kind not in "iu" or len(lengths) != len(split) or not len(split):
        raise UserError(f"{what} has lengths {str(lengths)[:60]}: an array of a whole number for each sequence is needed")
    if not isinstance(fingerprint, str):
        raise UserError(f"{what} has the fingerprint {fingerprint!r}: a text is needed")
    if not isinstance(cond_NA, np.ndarray) or cond_NA.ndim != 2 or not np.isfinite(cond_NA).all():
        row = int(np.argmin(np.isfinite(cond_NA).all(axis=1))) if getattr(cond_NA, "ndim", 0) == 2 else 0
        raise UserError(f"{what}: its conditions cond_NA are no finite numbers N x A (row {row}): correct them in the data")
    if (held := int(lengths.sum())) != len(cond_NA):
        raise UserError(f"{what} has lengths of {held} frames and {len(cond_NA)} rows of conditions: a row a frame is needed")
    indices, starts = np.unique([0, len(split) - 1]), np.cumsum(lengths) - lengths
    length = min(2, int(lengths[indices].min()))
    wanted = len(indices), length
    try:
        frames_BTHWC, cond_BTA = split.gather(indices, 0, length)
    except (UserError, OSError):
        raise
    except Exception as error:  # whatever a class of the user's raises
        raise UserError(f"{what}: gather raises {type(error).__name__}: {first_line(error)}") from error
    if getattr(frames_BTHWC, "dtype", None) != np.uint8 or np.shape(frames_BTHWC) != (*wanted, 64, 64, 3):
        found = f"{getattr(frames_BTHWC, 'dtype', type(frames_BTHWC).__name__)} of shape {np.shape(frames_BTHWC)}"
        raise UserError(f"{what}: gather returns frames as {found}: uint8 of shape {(*wanted, 64, 64, 3)} is needed, 0 to 255")
    rows_BTA = np.stack([cond_NA[starts[index] :][:length] for index in indices])
    if np.shape(cond_BTA) != rows_BTA.shape or not np.array_equal(cond_BTA, rows_BTA):
        raise UserError(
            f"{what}: gather returns conditions of shape {np.shape(cond_BTA)} that are not the rows of cond_NA, of shape "
            f"{rows_BTA.shape} for this window: both must hold the same"
        )


def condition_statistics(data: Dataset) -> tuple[Conditions, Conditions]:
    """Mean and standard deviation ``A`` of the train split's conditions; 0 and 1 if ``normalise`` is off."""
    cond_NA = data.train.cond_NA
    if not data.normalise:
        return np.zeros(cond_NA.shape[1], np.float32), np.ones(cond_NA.shape[1], np.float32)
    cond_NA = cond_NA.astype(np.float64)
    std_A = cond_NA.std(axis=0)
    # A column that never changes carries nothing; dividing by its zero deviation would carry NaN.
    return cond_NA.mean(axis=0).astype(np.float32), np.where(std_A > 1e-8, std_A, 1.0).astype(np.float32)


def training_windows(
    lengths: Indices, *, seed: int, epoch: int, batches: int, batch_size: int, length: int, random_start: bool
) -> tuple[Indices, Indices]:
    """Sequence indices and start frames ``[batches, B]`` of an epoch: a pure function of its arguments.

    Sequences come in shuffled passes over the whole split, one pass after another, cut off where the epoch ends.
    """
    generator = np.random.default_rng([seed, epoch])
    total = batches * batch_size
    passes = -(-total // len(lengths))
    indices = np.concatenate([generator.permutation(len(lengths)) for _ in range(passes)])[:total]
    starts = generator.integers(0, lengths[indices] - length + 1) if random_start else np.zeros(total, np.int64)
    return indices.reshape(batches, batch_size), starts.reshape(batches, batch_size)
