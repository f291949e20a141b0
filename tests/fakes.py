"""Run folders as training leaves them, written in milliseconds."""

from __future__ import annotations

import copy
import functools
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import OmegaConf

from cvae import integrity, pictures, start
from cvae.integrity import Lines
from cvae.metrics import Metric, as_record
from cvae.trial import NoTrial


@functools.cache
def _composed(words: tuple[str, ...]) -> dict[str, Any]:
    return dict(OmegaConf.to_container(start.compose(words), resolve=False))


def fake_run(
    folder: Path,
    psnr: Sequence[float] = (18.0, 19.0, 20.0),
    words: Sequence[str] = (),
    trial: Mapping[str, Any] | None = None,
    rows: Callable[[int], dict[str, Any]] = lambda epoch: {},
    video: bool = False,
    metrics: Sequence[Metric] | None = None,
    **settings: Any,
) -> Path:
    """Write a finished run whose validation PSNR is ``psnr``, an epoch each; ``settings`` go into its config as they are.

    ``metrics`` is the table in its run.json; a run of version 0.1.0 has none.
    """
    values = copy.deepcopy(_composed(tuple(words)))
    values.update({"epochs": len(psnr), **settings})
    if trial is not None:
        values["trial"] = {**values["trial"], **trial}
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(values))
    overrides = [*words, *(f"{key}={value}" for key, value in settings.items())]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    record = {"id": folder.name, "signature": "s", "group": (trial or {}).get("study"), "dataset": "d", "device": "cpu"}
    if metrics is not None:
        record["metrics"] = as_record(metrics)
    (folder / "run.json").write_text(
        json.dumps({**record, "command": "python -m cvae.train", "git_sha": "abc", "versions": {}})
    )
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch, value in enumerate(psnr, 1):
            row = {"epoch": epoch, "step": epoch, "val/psnr": value, "train/mse": 0.02 / epoch, "train/kld": 1.0, "lr": 1e-3}
            row |= {"val/psnr_copy": 17.0, "kl_weight": 1.0, "tf_ratio": float(epoch <= len(psnr) // 2), "seconds": 1.0}
            file.write(json.dumps(row | rows(epoch)) + "\n")
    if video:
        frames = np.random.default_rng(0).integers(0, 255, (2, 12, 64, 64, 3), dtype=np.uint8)
        (folder / "samples").mkdir()
        pictures.gif(frames, frames[::-1], 2, ["a", "b"], folder / "samples" / "epoch_0003.gif")
    return folder


def fake_checkpoint(folder: Path, name: str = "last.pt", lines: int | None = None, **facts: Any) -> Path:
    """Write a sealed checkpoint that stands for the first ``lines`` lines of metrics.jsonl as they are (all of them)."""
    path = folder / "checkpoints" / name
    path.parent.mkdir(exist_ok=True)
    text = b"".join((folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:lines])
    with path.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", b"")
        integrity.seal(file, {**Lines(text).facts(), **facts})
    return path


def fake_study(
    root: Path,
    psnr: Callable[[float, str, int], Sequence[float]],
    seeds: int = 3,
    parts: Sequence[str] = ("forcing", "annealing"),
) -> Path:
    """Write a course study of which ``psnr(lr, level, seed)`` gives the curves, 100 iterations an epoch; half are forced."""
    levels = {"forcing": ("step", "linear"), "annealing": ("cyclical", "monotonic")}
    cells = [
        (part, lr, level, seed) for part in parts for lr in (5e-4, 2e-3) for level in levels[part] for seed in range(seeds)
    ]
    for number, (part, lr, level, seed) in enumerate(cells):
        kl, tf = ("monotonic", level) if part == "forcing" else (level, "step")
        words = ("likelihood=mse", "data.world=1", f"kl_schedule={kl}", f"tf_schedule={tf}")
        settings = {"lr": lr, "beta": 1.0 if part == "forcing" else 1e-5, "seed": seed + 1, "epoch_size": 100}
        fake_run(root / str(number), psnr(lr, level, seed + 1), words, rows=lambda epoch: {"step": 100 * epoch}, **settings)
    return root


class Ended(NoTrial):
    """Stops a run after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    @property
    def stopping(self) -> bool:
        self.left -= 1
        return self.left <= 0
