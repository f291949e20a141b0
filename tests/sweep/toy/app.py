"""An app that sleeps: every attempt leaves a line in log.jsonl as it begins and as it ends, so that tests see what ran."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd
from omegaconf import DictConfig

from cvae.errors import Diverged, UserError
from cvae.trial import current_trial


def attempts(log: Path, number: int | None) -> int:
    lines = log.read_text().splitlines() if log.exists() else []
    return sum(entry["number"] == number and entry["event"] == "begin" for entry in map(json.loads, lines))


def befall(trouble: str, log: Path) -> float:
    """Do what the config asks for; return how long the job takes."""
    if trouble == "last":  # as slow as it takes for three others to end
        until = time.monotonic() + 400
        while sum('"end"' in line for line in log.read_text().splitlines()) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        return 0.1
    if trouble == "hang":
        return 1000.0
    if trouble == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    if trouble == "crash":
        raise ValueError("crashed as asked")
    if trouble == "user":
        raise UserError("this value is not allowed")
    if trouble == "diverged":
        raise Diverged("the loss became NaN")
    if trouble == "exit":
        raise SystemExit(3)
    os.kill(os.getpid(), getattr(signal, trouble))
    return 1000.0


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def app(cfg: DictConfig) -> float:
    trial, folder = current_trial(), Path(HydraConfig.get().runtime.output_dir)
    log = Path(get_original_cwd(), "log.jsonl")

    def note(event: str) -> None:
        entry = {"event": event, "number": trial.number, "x": cfg.x, "folder": str(folder), "pid": os.getpid()}
        environment = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        with log.open("a") as file:
            file.write(json.dumps({**entry, **environment, "time": time.time()}) + "\n")

    before = attempts(log, trial.number)
    note("begin")
    print(f"trial {trial.number} speaks")
    with (folder / "trials.txt").open("a") as file:
        file.write(f"{trial.number}\n")
    seconds = cfg.seconds
    if cfg.trouble and cfg.victim in (-1, trial.number) and before < cfg.times:
        seconds = befall(cfg.trouble, log)
    done = folder / "step.txt"
    for step in range(int(done.read_text()) + 1 if done.exists() else 1, cfg.steps + 1):
        until = time.monotonic() + seconds / cfg.steps
        while time.monotonic() < until:
            time.sleep(0.02)
            if trial.stopping:
                note("save")
                raise SystemExit(75)
        trial.report(step, cfg.x / step)
        done.write_text(str(step))
    note("end")
    return (cfg.x - 0.3) ** 2


if __name__ == "__main__":
    app()
