"""What touches CUDA, tried one after the other: ``python scripts/benchmark.py --gpu-check`` (see there)."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvae.damage import read_rows
from cvae.errors import UserError
from cvae.start import compose
from cvae.training.assembly import build_trainer

TRAIN = [sys.executable, "-m", "cvae.train"]
SMALL = ["data.world=1", "data.train=96", "data.validate=12", "data.test=0", "logger=none", "sample_every=0"]
FITS_16_GB = 14  # GiB of tensors: the context and gaps between them come on top
COURSE_STEPS = 300 * 600  # the report's run
SAME_PSNR = 0.5  # dB by which two runs of one seed may differ where kernels add up in no fixed order


class Failed(Exception):
    """A check did not show what it should; the message says what it showed."""


NAMES = ("capture", "graphs", "no_wait", "train", "resume", "compile", "ddp", "bf16", "resident", "checkpointing", "table")
_OF_GPUS = ("capture", "graphs", "no_wait")


def chosen(words: str, device: torch.device) -> list[str]:
    """The checks that are asked for, with commas between them; ``all`` are those that the device can have.

    Raises:
        UserError: there is no such check, or it needs a GPU.
    """
    able = [name for name in NAMES if device.type == "cuda" or name not in _OF_GPUS]
    if words == "all":
        return able
    names = [name for name in words.split(",") if name]
    if unknown := [name for name in names if name not in able] or (not names and [words]):
        raise UserError(f"--gpu-check: there is no {', '.join(unknown)!r} on this device: choose of {', '.join(able)}")
    return names


def gpu_check(
    device: torch.device,
    table: Callable[[], dict[str, Any]],
    words: list[str] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run checks, all by default, print a line each, and return what they found; ``table`` makes the benchmark's.

    ``words`` are overrides of every run.
    """
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(device, Path(folder), words or [])
        found: dict[str, Any] = {}
        for name in chosen("all", device) if names is None else names:
            began = time.monotonic()
            try:
                detail = table() if name == "table" else getattr(checks, name)()
                found[name] = {"passed": True, **detail}
            except Exception as error:  # unattended: whatever one check ends with, the others go on
                detail = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
                found[name] = {"passed": False, **detail}
            found[name]["seconds"] = time.monotonic() - began
            shown = ", ".join(f"{key} {_short(value)}" for key, value in detail.items() if not isinstance(value, dict))
            print(
                f"{'passed' if found[name]['passed'] else 'FAILED'}  {name:14}{found[name]['seconds']:6.1f} s  {shown}",
                flush=True,
            )
    if found.get("table", {}).get("passed"):
        found["projected_course_minutes"] = projected_minutes(found["table"]["train"]["vgg64"])
        print(f"        the report's run, 300 x 600 x 12, at these steps: {found['projected_course_minutes']:.0f} minutes")
    return found


def projected_minutes(vgg64: dict[str, Any]) -> float:
    """The report's run: forced to its middle, free from there."""
    return COURSE_STEPS / 2 * (vgg64["tfr=1"]["planned_s"] + vgg64["tfr=0"]["planned_s"]) / 60


class Checks:
    """Each method raises ``Failed`` or returns what it found."""

    def __init__(self, device: torch.device, folder: Path, words: list[str]) -> None:
        self.device, self.folder, self.words = device, folder, words

    def train(self) -> dict[str, Any]:
        """A run that lowers its loss."""
        rows = self._whole()
        if not rows[-1]["train/mse"] < rows[0]["train/mse"]:
            raise Failed(f"MSE did not fall: {[row['train/mse'] for row in rows]}")
        return {"psnr": rows[-1]["val/psnr"], "copy": rows[-1]["val/psnr_copy"]}

    def resume(self) -> dict[str, Any]:
        """A run that SIGTERM stops and resume= ends, as the whole one but for the order of additions."""
        run = self.folder / "stopped"
        process = subprocess.Popen(
            [*TRAIN, *self._words("epochs=4", "epoch_size=25"), f"hydra.run.dir={run}"], stdout=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        try:
            while not read_rows(run / "metrics.jsonl") and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
        if process.returncode != 75:
            raise Failed(f"SIGTERM ended it with {process.returncode}, not 75")
        self._call([*TRAIN, f"resume={run}"])
        rows, whole = read_rows(run / "metrics.jsonl"), self._whole()
        difference = abs(rows[-1]["val/psnr"] - whole[-1]["val/psnr"])
        if [row["epoch"] for row in rows] != [1, 2, 3, 4] or not difference < SAME_PSNR:
            raise Failed(f"epochs {[row['epoch'] for row in rows]}, PSNR off by {difference:.2f} dB")
        return {"psnr_difference": difference}

    def bf16(self) -> dict[str, Any]:
        """bf16 and fp32 from one seed."""
        psnr = {p: self._run(p, "epochs=4", "epoch_size=25", f"precision={p}")[-1]["val/psnr"] for p in ("bf16", "fp32")}
        if not abs(psnr["bf16"] - psnr["fp32"]) < 2 * SAME_PSNR:
            raise Failed(f"PSNR {psnr}")
        return psnr

    def resident(self) -> dict[str, Any]:
        """Frames in GPU memory and one batch ahead in host memory are the same frames."""
        choices = ("gpu", "host") if self.device.type == "cuda" else ("auto", "host")
        mse = [self._run(c, "epochs=1", "epoch_size=1", f"data.resident={c}")[0]["train/mse"] for c in choices]
        if not math.isclose(*mse, rel_tol=1e-3):
            raise Failed(f"the first step's MSE differs: {mse}")
        return {"mse": mse[0]}

    def no_wait(self) -> dict[str, Any]:
        """A training step launches its work and does not wait for the GPU."""
        trainer = build_trainer(compose(self._words("epochs=9", "tfr=0.5", "tf_schedule=constant")), self.folder / "unused")
        trainer.model.train()
        batch = next(trainer.feed.batches([(np.zeros(12, int), np.zeros(12, int))]))
        for _ in range(3):
            trainer.step(*batch)
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.step(*batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {}

    def capture(self) -> dict[str, Any]:
        """Steps of one pattern become one graph, which computes what they do one operation after the other."""
        losses = {}
        for choice in ("false", "graphs"):
            words = ("epochs=1", "epoch_size=8", "tfr=1", "tf_schedule=constant", "precision=fp32", f"compile={choice}")
            trainer = build_trainer(compose(self._words(*words)), self.folder / "unused")
            trainer.model.train()
            losses[choice] = []
            for batch in trainer.batches():
                losses[choice].append(trainer.step(*batch).mse.item())
                trainer.iteration += 1
        if not np.allclose(losses["false"], losses["graphs"], rtol=1e-2):
            raise Failed(f"MSE of steps {losses['false']} eager, {losses['graphs']} captured")
        if not (graphs := len(trainer.take._graphs)):  # type: ignore[attr-defined]  # of a captured step
            raise Failed("no step was captured")
        return {"graphs": graphs, "mse": losses["graphs"][-1]}

    def compile(self) -> dict[str, Any]:
        return self._compiled("true")

    def graphs(self) -> dict[str, Any]:
        return self._compiled("graphs")

    def _compiled(self, choice: str) -> dict[str, Any]:
        """A compiled run computes the same; its pace once it is compiled, beside the eager one's."""
        words = ("epochs=3", "epoch_size=25", "tfr=0", "tf_schedule=constant", "validate_every=3")
        eager = read_rows(self.folder / "eager" / "metrics.jsonl") or self._run("eager", *words)
        compiled = self._run(f"compiled_{choice}", *words, f"compile={choice}", timeout=240)
        if not abs(eager[-1]["val/psnr"] - compiled[-1]["val/psnr"]) < 2 * SAME_PSNR:
            raise Failed(f"PSNR {eager[-1]['val/psnr']:.2f} eager, {compiled[-1]['val/psnr']:.2f} compiled")
        return {
            "gain": compiled[1]["frames_per_second"] / eager[1]["frames_per_second"],
            "cost_s": compiled[0]["seconds"] - eager[0]["seconds"],
        }

    def ddp(self) -> dict[str, Any]:
        """One process under torchrun computes what one without it does."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", "-m", "cvae.train"]
        run = self.folder / "ddp"
        self._call([*torchrun, *self._words("epochs=1", "epoch_size=25"), f"hydra.run.dir={run}"])
        mse = [rows[0]["train/mse"] for rows in (read_rows(run / "metrics.jsonl"), self._whole())]
        if not math.isclose(*mse, rel_tol=0.05):
            raise Failed(f"MSE {mse[0]} under torchrun, {mse[1]} alone")
        return {"mse": mse[0]}

    def checkpointing(self) -> dict[str, Any]:
        """VGG-64 at batch 100 in less memory; GiB on a GPU, and the first loss on any device."""
        found: dict[str, Any] = {}
        batch = 100 if self.device.type == "cuda" else 2
        for keep in (True, False):
            # Free-running, as a run is from its middle on, and the second step, which has the optimizer's state too.
            words = ("model=vgg64", f"batch_size={batch}", "tfr=0", f"model.backbone.checkpointing={not keep}")
            trainer = build_trainer(compose(self._words(*words)), self.folder / "unused")
            trainer.model.train()
            frames_cond = next(trainer.feed.batches([(np.zeros(batch, int), np.zeros(batch, int))]))
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self.device)
            name = "kept" if keep else "computed_again"
            found[f"mse_{name}"] = trainer.step(*frames_cond).mse.item()
            trainer.step(*frames_cond)
            if self.device.type == "cuda":
                found[f"gib_{name}"] = torch.cuda.max_memory_allocated(self.device) / 2**30
            del trainer, frames_cond
        if not math.isclose(found["mse_kept"], found["mse_computed_again"], rel_tol=1e-2):
            raise Failed(f"the first MSE differs: {found}")
        if self.device.type == "cuda" and not found["gib_computed_again"] < min(FITS_16_GB, found["gib_kept"]):
            raise Failed(f"too much memory: {found}")
        return found

    def _whole(self) -> list[dict[str, Any]]:
        """The rows of a run that others are compared with."""
        return read_rows(self.folder / "whole" / "metrics.jsonl") or self._run("whole", "epochs=4", "epoch_size=25")

    def _run(self, name: str, *words: str, timeout: float = 150) -> list[dict[str, Any]]:
        """Train in a process of its own; its rows."""
        run = self.folder / name
        self._call([*TRAIN, *self._words(*words), f"hydra.run.dir={run}"], timeout)
        return read_rows(run / "metrics.jsonl")

    def _words(self, *words: str) -> list[str]:
        return [*SMALL, f"device={self.device}", *self.words, *words]

    def _call(self, command: list[str], timeout: float = 150) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=dict(os.environ))
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if re.search(r"\berror:|Error\b", line)]
            raise Failed(f"exit {done.returncode}: {said[-1] if said else done.stderr[-300:]}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
