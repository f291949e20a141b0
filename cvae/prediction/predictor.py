"""``cvae.load``: a trained model in three lines, without its data.

model = cvae.load("multirun/single/2026-11-23_10-00-00_a1b2")
future = model.predict(past, cond, samples=5)                # as past: NumPy or torch, channels last or first
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from cvae.data.contract import numbered
from cvae.data.layout import IMAGE_SIZE, TABLES
from cvae.data.tables import CHOICES, chosen
from cvae.errors import UserError, expanded, first_line, require
from cvae.model.cvae import CVAE
from cvae.prediction import weights
from cvae.resume import recorded_config
from cvae.run_record import read_record
from cvae.training import checkpoint as checkpoints
from cvae.training.loading import restored
from cvae.training.runtime import choose_device

Array = NDArray[Any] | Tensor

_FUTURES = 64  # predicted at a time: sequences x samples
_CHECKPOINTS = ("best", "last")
_SEEDS = 1 << 40
_SAMPLES = 10_000
_MANY = f"give a number of futures, from 1 to {_SAMPLES}"
_LETTERS = 200  # of a condition's name
_SEED = f"give a whole number from {-_SEEDS} to {_SEEDS}"


def load(
    run: str | os.PathLike[str],
    checkpoint: str = "best",
    allow_targets: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Predictor:
    """A trained model. It needs no data: what it must know of conditions stands in its weights.

    Args:
        run: a run folder; one of its files ``checkpoints/*.pt``; or a file of ``python -m cvae.predict export=``.
        checkpoint: of a run folder: ``best`` or ``last``.
        allow_targets: packages of your own that the model is built of. What a folder or file names is not believed.
        device: where to predict: a device by PyTorch's names, or ``auto``.

    Raises:
        UserError: there is no such run, checkpoint or device, it is damaged, or no checkpoint of this package.
    """
    if not isinstance(run, (str, os.PathLike)):
        raise UserError(f"run is {run!r}: give the path of a run folder, of its checkpoints/best.pt, or of a .safetensors file")
    if isinstance(allow_targets, str):
        raise UserError(f"allow_targets is {allow_targets!r}: give a list of packages, such as [{allow_targets!r}]")
    place = choose_device(str(device))
    path = expanded(run, "run")
    found: Any
    names: Any = None
    if path.suffix == ".safetensors":
        cfg, found, names = weights.read(path)
    elif path.is_dir():
        require(checkpoint in _CHECKPOINTS, "checkpoint", checkpoint, f"choose {' or '.join(_CHECKPOINTS)}")
        cfg, names = recorded_config(path, data=False), _recorded_names(path)
        path = path / "checkpoints" / f"{checkpoint}.pt"
        found = checkpoints.load(path).get("model")
    else:
        cfg, found = _of_file(path)
        names = _recorded_names(path.parent.parent)
    cfg.allow_targets = list(allow_targets)
    return Predictor(restored(cfg, found, path).to(place), cfg, names)


def _of_file(path: Path) -> tuple[DictConfig, Any]:
    """Config and weights of a checkpoint that lies in its run folder: it does not hold its config itself."""
    folder = path.parent.parent
    if not path.exists():
        raise UserError(f"run={path} does not exist: give a run folder, its checkpoints/best.pt, or an exported .safetensors")
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(
            f"{path} lies in no run folder, and its config is not in it: give the run folder, or a .safetensors file; "
            "scripts/import_course_checkpoint.py reads checkpoints of SVG and of the course"
        )
    return recorded_config(folder, data=False), checkpoints.load(path).get("model")


def _recorded_names(folder: Path) -> Any:
    """What run.json calls the conditions; None if it is damaged, gone, or of a version before."""
    with contextlib.suppress(UserError):
        return (read_record(folder) or {}).get("conditions")
    return None


def _names(given: Any, cfg: DictConfig, width: int) -> list[str]:
    """What conditions are called: what their data say, if a stranger may say so; of a version before, the course's names."""
    if isinstance(given, list) and len(given) == width:
        if all(isinstance(name, str) and name.isprintable() and len(name) <= _LETTERS for name in given):
            return given
        return numbered(width)
    if "packed" in str(OmegaConf.select(cfg, "data._target_")).lower():
        return numbered(width)
    choice = OmegaConf.select(cfg, "data.condition", throw_on_missing=False)
    names = [name for file in chosen(TABLES, choice) for name in TABLES[file]] if choice in CHOICES else []
    return names if len(names) == width else numbered(width)


class Predictor:
    """A model that is ready to predict.

    Attributes:
        model: the network, in eval mode.
        config: the settings that it was trained with.
        n_past: how many frames it is given.
        n_future: how many it predicted in training; it predicts any number.
        conditions: the names of the values that it takes with each frame, in their order; empty if it takes none.
    """

    def __init__(self, model: CVAE, config: DictConfig, conditions: Any = None) -> None:
        self.model, self.config = model, config
        self.n_past, self.n_future = model.n_past, int(config.n_future)
        self.conditions = _names(conditions, config, len(model.cond_mean_A))

    @property
    def device(self) -> torch.device:
        return self.model.cond_mean_A.device

    def predict(
        self,
        past: Array,
        cond: Array | None = None,
        samples: int = 1,
        *,
        n_future: int | None = None,
        seed: int = 1,
        uint8: bool = False,
    ) -> Any:
        """Predict futures of one sequence or of a batch.

        Args:
            past: the ``n_past`` given frames, ``THWC`` or ``BTHWC`` (or ``TCHW``, ``BTCHW``): bytes, or numbers in [0, 1].
            cond: the conditions ``TA`` or ``BTA``. Row t belongs to frame t, and its action leads to frame t+1. There may be
                more rows than needed; None if the model takes no conditions.
            samples: S, how many futures of each sequence.
            n_future: K, how many frames; None for as many as ``cond`` has rows after the past, else as in training.
            seed: of the noise. A sample depends on it, its row in the batch and its number, not on how many others there are.
            uint8: whether bytes are wanted; else float32 in [0, 1].

        Returns:
            ``SKHWC``, or ``SBKHWC`` for a batch: NumPy for NumPy, torch for torch (on its device); channels where they were.

        Raises:
            UserError: a shape, type or value is not as said.
        """
        frames_BTCHW, single, channels_last = self._past(past)
        samples, seed = _whole("samples", samples, _MANY), _whole("seed", seed, _SEED)
        require(1 <= samples <= _SAMPLES, "samples", samples, _MANY)
        require(abs(seed) <= _SEEDS, "seed", seed, _SEED)
        if n_future is not None:
            n_future = _whole("n_future", n_future, "give a number of frames to predict, at least 1, or None")
        cond_BTA = self._cond(cond, len(frames_BTCHW), single)
        if n_future is None:
            n_future = cond_BTA.shape[1] - self.n_past if self.conditions else self.n_future
        length = self._length(n_future, cond_BTA)
        noise_STBZ = torch.stack([self.noise(seed, row, samples, length) for row in range(len(frames_BTCHW))], dim=2)
        future_SBKCHW = self.generate(frames_BTCHW, cond_BTA, noise_STBZ)
        if uint8:
            future_SBKCHW = to_bytes(future_SBKCHW)
        future = future_SBKCHW.movedim(3, -1) if channels_last else future_SBKCHW
        future = future[:, 0] if single else future
        return future.to(past.device) if isinstance(past, Tensor) else future.cpu().numpy()

    def noise(self, seed: int, row: int, samples: int, length: int) -> Tensor:
        """Standard normal ``noise_STZ`` of sequence ``row``; the first samples are the same however many follow."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
        return torch.randn(samples, length, self.model.latent_dim, generator=generator)

    def generate(self, past_BTCHW: Tensor, cond_BTA: Tensor, noise_STBZ: Tensor) -> Tensor:
        """As ``CVAE.generate``, a part at a time: memory does not grow with samples and sequences but for the result."""
        (samples, _, batch, _), device = noise_STBZ.shape, self.device
        across = max(1, _FUTURES // samples)
        rows = [slice(first, first + across) for first in range(0, batch, across)]
        parts = [slice(first, first + _FUTURES) for first in range(0, samples, _FUTURES)]
        future: list[Tensor] = []
        with torch.inference_mode():
            for row in rows:
                given = past_BTCHW[row].to(device), cond_BTA[row].to(device)
                each = [self.model.generate(*given, noise_STBZ[part, :, row].to(device)).float() for part in parts]
                future.append(torch.cat(each))
        future_SBKCHW = torch.cat(future, dim=1)
        if not bool(future_SBKCHW.isfinite().all()):
            raise UserError(f"the prediction is not finite: {self._farthest(cond_BTA)}")
        return future_SBKCHW

    def _farthest(self, cond_BTA: Tensor) -> str:
        """The condition that lies farthest from those of training, in words."""
        if not cond_BTA.numel():
            return "other weights, or another precision, are needed"
        away_BTA = ((cond_BTA.double() - self.model.cond_mean_A.cpu()) / self.model.cond_std_A.cpu()).abs()
        b, t, a = (int(index) for index in np.unravel_index(int(away_BTA.argmax()), away_BTA.shape))
        return (
            f"{self.conditions[a]} is {float(cond_BTA[b, t, a]):g} in row {t + 1}, {float(away_BTA[b, t, a]):.2g} standard "
            "deviations from the mean of training: check the conditions' units"
        )

    def _past(self, past: Array) -> tuple[Tensor, bool, bool]:
        """``frames_BTCHW`` in [0, 1], whether it is one sequence, and whether its channels come last."""
        found = _tensor("past", past)
        single = found.dim() == 4
        frames = found[None] if single else found
        channels_last = frames.dim() == 5 and frames.shape[-1] == 3
        frames_BTCHW = frames.movedim(-1, 2) if channels_last else frames
        wanted = (self.n_past, 3, IMAGE_SIZE, IMAGE_SIZE)
        if frames_BTCHW.dim() != 5 or tuple(frames_BTCHW.shape[1:]) != wanted or not len(frames_BTCHW):
            raise UserError(
                f"past has the shape {tuple(found.shape)}: {self.n_past} frames of {IMAGE_SIZE} x {IMAGE_SIZE} x 3 or 3 x "
                f"{IMAGE_SIZE} x {IMAGE_SIZE} are needed, with or without a batch before"
            )
        if frames_BTCHW.dtype == torch.uint8:
            return frames_BTCHW.float() / 255, single, channels_last
        if not frames_BTCHW.is_floating_point():
            raise UserError(f"past is {frames_BTCHW.dtype}: give bytes (uint8), or floats in [0, 1]")
        if not bool(((frames_BTCHW >= 0) & (frames_BTCHW <= 1)).all()):
            raise UserError("past holds values outside of [0, 1]: divide by 255, or give bytes (uint8)")
        return frames_BTCHW.float(), single, channels_last

    def _cond(self, cond: Array | None, batch: int, single: bool) -> Tensor:
        width = len(self.conditions)
        if cond is None:
            if width:
                raise UserError(
                    f"cond is missing: the model takes {width} values with each frame ({', '.join(self.conditions)})"
                )
            return torch.zeros(batch, 0, 0)
        found = _tensor("cond", cond)
        if found.is_complex():
            raise UserError(f"cond is {found.dtype}: real numbers are needed")
        cond_BTA = found[None] if single and found.dim() == 2 else found
        if cond_BTA.dim() != 3 or cond_BTA.shape[0] != batch or cond_BTA.shape[2] != width:
            raise UserError(
                f"cond has the shape {tuple(found.shape)}: {'' if single else f'{batch} x '}T x {width} is needed, with each "
                f"frame {', '.join(self.conditions) or 'nothing'}"
            )
        if not bool(cond_BTA.float().isfinite().all()):
            raise UserError("cond holds NaN or infinity: every value must be a finite number")
        return cond_BTA.float()

    def _length(self, n_future: int, cond_BTA: Tensor) -> int:
        """T, the frames of past and future."""
        length = self.n_past + n_future
        if self.conditions and cond_BTA.shape[1] < max(length - 1, self.n_past):
            raise UserError(
                f"cond has {cond_BTA.shape[1]} rows, which is too few for {self.n_past} given and {n_future} predicted frames: "
                f"give at least {max(length - 1, self.n_past)}, a row a frame"
            )
        if n_future < 1:
            more = f"; without it, cond needs more than {self.n_past} rows" if self.conditions else ""
            raise UserError(f"n_future is {n_future}: give a number of frames to predict, at least 1{more}")
        return length


def _tensor(name: str, values: Array) -> Tensor:
    """An array as a tensor that shares no memory with it: NumPy's may be read-only, which PyTorch warns of."""
    if isinstance(values, Tensor):
        if values.layout != torch.strided or (values.element_size() == 1 and values.is_floating_point()):
            raise UserError(f"{name} is {values.dtype} in the layout {values.layout}: give a plain tensor, such as of float32")
        return values
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is no array of numbers ({first_line(error)}): give NumPy or torch") from error


def to_bytes(frames: Tensor) -> Tensor:
    """Images in [0, 1] as bytes, rounded."""
    return (frames * 255).round().clamp(0, 255).to(torch.uint8)


def _whole(key: str, value: Any, hint: str) -> int:
    """A whole number of Python, NumPy or torch; true and false are none."""
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        whole = None
    if whole is None:
        raise UserError(f"{key} is {value!r}: {hint}")
    return whole
