"""Run in a process with pretended GPUs: what kinds of training steps ask of CUDA, as a line of JSON each.

python steps.py '{"name": ["key=value", ...], ...}'
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

from cvae import resolvers
from cvae.start import compose
from cvae.training import checkpoint
from cvae.training.assembly import build_trainer
from cvae.training.runtime import reset_peak_memory
from cvae.training.trainer import Trainer

COUNTED = 4  # steps


def warm_up(words: list[str]) -> int:
    """Steps before those that count: the first ones ask for memory, and cuDNN tries its algorithms on each new shape."""
    return 30 if "tfr=0.5" in words else 10  # coins make many shapes; with checkpointing the seventh step still asks once


RUNTIME = ctypes.CDLL(None)
DATA = ["data.world=1", "data.train=24", "data.validate=4", "data.test=0", "logger=none", "device=cuda", "sample_every=1"]


def counted() -> dict[str, int]:
    return {name: getattr(RUNTIME, f"pretended_{name}")() for name in ("launches", "waits", "pageable", "allocations")}


def steps(trainer: Trainer, warm: int) -> dict[str, float]:
    """A step's launches and the like, where PyTorch and the runtime refuse whatever makes the host wait."""
    batches = trainer.batches()
    trainer.model.train()
    for _ in range(warm):
        trainer.step(*next(batches))
        trainer.iteration += 1
    torch.cuda.set_sync_debug_mode("error")
    RUNTIME.pretended_refuse_pageable(1)
    try:
        RUNTIME.pretended_reset()
        for _ in range(COUNTED):
            trainer.step(*next(batches))
            trainer.iteration += 1
        return {name: count / COUNTED for name, count in counted().items()}
    finally:
        torch.cuda.set_sync_debug_mode("default")
        RUNTIME.pretended_refuse_pageable(0)


def whole(words: list[str], folder: Path) -> dict[str, Any]:
    """Waits of a validation, of a whole run of two epochs, and of going on with it."""
    trainer = build_trainer(compose([*words, "epochs=2", "epoch_size=2"]), folder)
    trainer.recorder.start(signature="", config={}, facts={}, group=None, name="", tags=[])
    reset_peak_memory(trainer.device)
    RUNTIME.pretended_reset()
    trainer.fit()
    found = {"run": counted()["waits"]}
    RUNTIME.pretended_reset()
    trainer._row(2, 1.0) if trainer.sums.count else trainer.step(*next(trainer.batches()))
    again = build_trainer(compose([*words, "epochs=2", "epoch_size=2"]), folder)
    RUNTIME.pretended_reset()
    again.load(checkpoint.load(folder / "checkpoints" / "last.pt", again.device))
    return {**found, "resume": counted()["waits"]}


def main() -> None:
    warnings.simplefilter("ignore")
    resolvers.register()
    for name, words in json.loads(sys.argv[1]).items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                given = [*DATA, *words]
                found: dict[str, Any] = steps(build_trainer(compose(given), Path(folder) / "unused"), warm_up(words))
                found |= whole(given, Path(folder) / "run")
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc(limit=-4)}
        print("FOUND", json.dumps({"name": name, **found}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # no library of a pretended CUDA is taken down in order


if __name__ == "__main__":
    main()
