"""Run in a process with pretended GPUs: the most memory a step takes, and its launches, as a line of JSON.

python memory.py key=value ...: by autograd alone, with what is done for all layers at once, with weights' gradients deferred.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from steps import DATA, RUNTIME

from cvae import resolvers
from cvae.model import together
from cvae.start import compose
from cvae.training.assembly import build_trainer
from cvae.training.trainer import Trainer


def taken(trainer: Trainer, context: contextlib.AbstractContextManager[None]) -> tuple[int, int]:
    batches = trainer.batches()
    with context:
        trainer.step(*next(batches))
        torch.cuda.reset_peak_memory_stats()
        RUNTIME.pretended_reset()
        trainer.step(*next(batches))
    return torch.cuda.max_memory_allocated(), RUNTIME.pretended_launches()


def main() -> None:
    resolvers.register()
    trainer = build_trainer(compose([*DATA, "epoch_size=8", *sys.argv[1:]]), Path("unused"))
    trainer.model.train()
    found = {"at once": taken(trainer, contextlib.nullcontext()), "deferred": taken(trainer, together.deferring())}
    together._pays = lambda device: False
    found["alone"] = taken(trainer, contextlib.nullcontext())
    print("FOUND", json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
