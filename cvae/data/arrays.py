"""Arrays in memory or memory maps as a dataset (``cvae.data.contract``): an own dataset is one function that returns them.

    def load(path):
        frames = np.load(path, mmap_mode="r")                      # uint8, N x T x 64 x 64 x 3
        return {"train": (frames[:90], None), "validate": (frames[90:], None)}

Sequences of different lengths come as a list of arrays ``T x 64 x 64 x 3`` (and of conditions ``T x A``) instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvae.data.contract import Conditions, Frames, Indices
from cvae.data.layout import IMAGE_SIZE
from cvae.errors import UserError, first_line

__all__ = ["ArrayData"]

_NEEDED = "uint8 frames N x T x 64 x 64 x 3 and finite conditions N x T x A (None: no conditions) are needed"


class ArraySplit:
    """A split over arrays, which are read where a window is asked for: memory maps stay on the disk.

    Args:
        frames: one uint8 array ``THWC`` a sequence: a list of them, or one array ``NTHWC``.
        cond: one array ``TA`` of numbers a sequence, in the same two ways; None for no conditions.
        names: what to call the sequences; their numbers by default.
        lengths: frames of each sequence; None to look at them.
    """

    def __init__(
        self,
        frames: Sequence[Frames],
        cond: Sequence[NDArray[Any]] | None,
        names: Sequence[str] = (),
        lengths: Indices | None = None,
    ) -> None:
        self.frames = frames
        self.lengths = np.array([len(sequence) for sequence in frames], np.int64) if lengths is None else lengths
        self.cond = [np.zeros((length, 0), np.float32) for length in self.lengths] if cond is None else cond
        self.names = names or range(len(frames))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[Frames, Conditions]:
        """The whole sequence ``index``, as the caller's own: ``frames_THWC`` and ``cond_TA``."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        return np.array(self.frames[index]), np.array(self.cond[index], np.float32)

    @cached_property
    def cond_NA(self) -> Conditions:
        return np.concatenate(list(self.cond)).astype(np.float32, copy=False)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all frames and conditions; it reads them once, a sequence at a time."""
        digest = hashlib.sha256()
        self.feed(digest)
        return digest.hexdigest()[:16]

    def feed(self, *digests: hashlib._Hash) -> None:
        """Take all frames and conditions into each of ``digests``."""
        for arrays in map(self.__getitem__, range(len(self))):
            for array in arrays:
                for digest in digests:
                    digest.update(str(array.shape).encode())
                    digest.update(np.ascontiguousarray(array).data)

    def name(self, index: int) -> str:
        return str(self.names[index])

    def gather(self, indices: Indices, starts: Indices | int, length: int) -> tuple[Frames, Conditions]:
        """See ``contract.Split``."""
        windows = [(i, slice(s, s + length)) for i, s in np.broadcast(indices, starts)]
        frames_BTHWC = np.stack([self.frames[i][window] for i, window in windows])
        cond_BTA = np.stack([self.cond[i][window] for i, window in windows])
        return frames_BTHWC, cond_BTA.astype(np.float32, copy=False)


class ArrayData:
    """A dataset from a function that returns its arrays, called when they are first used.

    Args:
        source: without arguments, returns ``{"train": (frames, conditions), "validate": ..., "test": ...}``, each pair as
            ``ArraySplit`` takes it; ``test`` may be left out. In a config: its ``_target_``, its arguments, and
            ``_partial_: true``, which keeps Hydra from calling it.
        normalise, random_start, resident: see ``contract.Dataset``.

    Raises:
        UserError: ``source`` is no function; when data are used: it raises, or an array has another shape or type.
    """

    def __init__(
        self, source: Callable[[], Any], normalise: bool = True, random_start: bool = True, resident: str = "auto"
    ) -> None:
        if not callable(source):
            raise UserError(f"data.source is a {type(source).__name__}, not a function: add _partial_: true to it")
        self.source, self.normalise, self.random_start, self.resident = source, normalise, random_start, resident

    @cached_property
    def _splits(self) -> dict[str, ArraySplit]:
        try:
            found = self.source()
        except OSError as error:
            raise UserError(f"data.source: {self} cannot read its data ({error}): check its arguments") from error
        except UserError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            raise UserError(f"data.source: {self} raises {type(error).__name__}: {first_line(error)}") from error
        if not isinstance(found, Mapping) or not {"train", "validate"} <= found.keys():
            held = f"a dict of {', '.join(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
            raise UserError(f"data.source: {self} returned {held}: a dict with train, validate and perhaps test is needed")
        splits = {name: _opened(f"data.source: {name} of {self}", pair) for name, pair in found.items()}
        widths = {name: split.cond_NA.shape[1] for name, split in splits.items()}
        if len(set(widths.values())) > 1:
            raise UserError(f"data.source: {self} has conditions of {widths} values: all splits need as many")
        return splits

    @property
    def train(self) -> ArraySplit:
        return self._splits["train"]

    @property
    def validate(self) -> ArraySplit:
        return self._splits["validate"]

    @property
    def test(self) -> ArraySplit:
        if "test" not in self._splits:
            raise UserError(f"{self} returns no test split: add one to what it returns")
        return self._splits["test"]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all frames and conditions of train and validate; it reads them once, a sequence at a time."""
        digest, own = hashlib.sha256(), hashlib.sha256()
        self.train.feed(digest)
        self.train.fingerprint = digest.hexdigest()[:16]
        self.validate.feed(digest, own)
        self.validate.fingerprint = own.hexdigest()[:16]
        return digest.hexdigest()[:16]

    def check(self) -> None:
        """Call ``source`` and look at shapes and types. What it returned is not kept: each job calls it again."""
        len(ArrayData(self.source).train)

    def __str__(self) -> str:
        function = getattr(self.source, "func", self.source)  # of a functools.partial
        return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"


def _opened(where: str, pair: Any) -> ArraySplit:
    """The split, if shapes and types are right; no frame is read."""
    try:
        frames, cond = pair
        sequences = list(zip(frames, [None] * len(frames) if cond is None else cond, strict=True))
    except (TypeError, ValueError):
        sequences = []
    if not sequences:
        raise UserError(f"{where} is not a pair (frames, conditions) of as many sequences, at least one: {_NEEDED}")
    for index, (frames_THWC, cond_TA) in enumerate(sequences):
        images = isinstance(frames_THWC, np.ndarray) and frames_THWC.dtype == np.uint8
        fits = images and frames_THWC.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE, 3)
        if fits and cond is not None:
            numbers = isinstance(cond_TA, np.ndarray) and cond_TA.dtype.kind in "fiu" and cond_TA.ndim == 2
            fits = numbers and cond_TA.shape == (len(frames_THWC), cond[0].shape[1])
        if not fits:
            raise UserError(
                f"{where}: sequence {index} has frames {_said(frames_THWC)}, conditions {_said(cond_TA)}: {_NEEDED}"
            )
        if cond is not None:
            with np.errstate(over="ignore"):
                finite = np.isfinite(cond_TA.astype(np.float32)).all()
            if not finite:
                raise UserError(f"{where}: the conditions of sequence {index} hold NaN or infinity in float32: {_NEEDED}")
    return ArraySplit(frames, cond)


def _said(array: Any) -> str:
    return f"{array.dtype} {' x '.join(map(str, array.shape))}" if isinstance(array, np.ndarray) else type(array).__name__
