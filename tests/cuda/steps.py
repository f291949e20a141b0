"""Run in a process with pretended GPUs: what kinds of training steps ask of CUDA, as a line of JSON each.

python steps.py '{"name": ["key=value", ...], ...}'

Started by torchrun, each process prints those of its steps.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from cvae import resolvers
from cvae.start import compose
from cvae.training import checkpoint, distributed
from cvae.training.assembly import build_trainer
from cvae.training.runtime import reset_peak_memory
from cvae.training.trainer import Trainer

COUNTED = 4  # steps
STRETCHES = 12  # of as many steps: the first ones ask for memory, coins make many shapes, and the feed runs in its own thread
RUNTIME = ctypes.CDLL(None)
DATA = ["data.world=1", "data.train=24", "data.validate=4", "data.test=0", "logger=none", "device=cuda", "sample_every=1"]


def counted() -> dict[str, int]:
    return {name: getattr(RUNTIME, f"pretended_{name}")() for name in ("launches", "waits", "pageable", "allocations")}


def steps(trainer: Trainer) -> dict[str, float]:
    """A step's launches and the like in the first stretch that neither asks for memory nor waits, else in the last stretch.

    After the first stretch PyTorch and the runtime refuse whatever makes the host wait. cuDNN alone may: it tries its
    algorithms on each new shape.
    """
    batches = trainer.batches()
    trainer.model.train()
    try:
        for stretch in range(STRETCHES):
            RUNTIME.pretended_reset()
            for _ in range(COUNTED):
                trainer.step(*next(batches))
                trainer.iteration += 1
            found = {name: count / COUNTED for name, count in counted().items()}
            if stretch and not found["allocations"] and not found["waits"]:
                break
            torch.cuda.set_sync_debug_mode("error")
            RUNTIME.pretended_refuse_pageable(1)
        return found
    finally:
        torch.cuda.set_sync_debug_mode("default")
        RUNTIME.pretended_refuse_pageable(0)


def whole(config: DictConfig, folder: Path) -> dict[str, int]:
    """Waits of a run's last validation and last samples, of the whole run, and of going on with it."""
    trainer = build_trainer(config, folder)
    trainer.recorder.start(signature="", config={}, facts={}, group=None, name="", tags=[])
    reset_peak_memory(trainer.device)
    found: dict[str, int] = {}
    for part, name in {"validation": "_scores", "samples": "_sample"}.items():
        setattr(trainer, name, counting(getattr(trainer, name), part, found))
    RUNTIME.pretended_reset()
    trainer.fit()
    found["run"] = counted()["waits"]
    again = build_trainer(config, folder)
    RUNTIME.pretended_reset()
    again.load(checkpoint.load(folder / "checkpoints" / "last.pt", again.device))
    return {**found, "resume": counted()["waits"]}


def counting(method: Callable[[], Any], part: str, found: dict[str, int]) -> Callable[[], Any]:
    """A method whose waits, the last time it was called, are found under the name of a part of a run."""

    def call() -> Any:
        before = counted()["waits"]
        returned = method()
        found[part] = counted()["waits"] - before
        return returned

    return call


def main() -> None:
    warnings.simplefilter("ignore")
    resolvers.register()
    shared = "WORLD_SIZE" in os.environ
    if shared:
        distributed.join()
    for name, words in json.loads(sys.argv[1]).items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                config = compose([*DATA, *words])
                found: dict[str, Any] = steps(build_trainer(config, Path(folder) / "unused"))
                if not shared and "model=vgg64" not in words:  # whose checkpoints are 267 MB
                    config.epochs = config.epoch_size = 2
                    found |= whole(config, Path(folder) / "run")
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc(limit=-4)}
        print("FOUND", json.dumps({"name": name, **found}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # no library of a pretended CUDA is taken down in order


if __name__ == "__main__":
    main()
