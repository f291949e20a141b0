"""Runs that a study needs: started two at a time, gone on with after a stop, and kept in a folder that can be committed.

What is kept of a finished run is a run folder too: its config, run.json, metrics.jsonl and validations.jsonl, without places of
this machine and without checkpoints. So a study goes on in a fresh clone, and ``cvae.report`` reads what is kept.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from cvae import cli, files, run_record
from cvae.config import PLACES, identity
from cvae.console import say, short
from cvae.errors import UserError, write_whole, writing
from cvae.integrity import LINES
from cvae.runs.collection import collect
from cvae.runs.run import Run, read_run
from cvae.start import compose

HINT = "free some space, then run this again"
_LEFT_OUT = ("trial", "logger", "resume", "show")  # of a config
_OF_THE_RUN = ("id", "signature", "dataset", "device", "precision", "parameters", "git_sha", "dirty", "versions", "options")


@dataclass(frozen=True)
class Job:
    """A run by its name in the folder of what is kept, and the words of its command."""

    name: str
    words: tuple[str, ...]


def without(mapping: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A mapping without some keys."""
    left_out = set(keys)
    return {key: value for key, value in mapping.items() if key not in left_out}


def config_of(folder: Path) -> dict[str, Any]:
    """A run's config without places of this machine, and without what does not change what it computes."""
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"))
    return {**without(config, _LEFT_OUT), "data": without(config["data"], PLACES)}


def is_kept(job: Job, kept: Path) -> bool:
    """Whether a run with the job's settings is kept under its name."""
    folder = kept / job.name
    return (folder / "run.json").is_file() and _has_settings(folder, job)


def kept_runs(jobs: Iterable[Job], kept: Path) -> list[Run]:
    """The runs that are kept of some jobs, by the names of their options."""
    folders = [str(kept / job.name) for job in jobs if is_kept(job, kept)]
    return collect(folders).runs if folders else []


def _has_settings(folder: Path, job: Job) -> bool:
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=False)
    except FileNotFoundError:
        return False
    return _same(identity(config)) == _asked(job.words)


@functools.cache
def _asked(words: tuple[str, ...]) -> dict[str, Any]:
    return _same(identity(compose(words), resolve=False))


def _same(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "data": without(settings["data"], PLACES)}


def keep(folder: Path, place: Path) -> None:
    """Keep a finished run in ``place``.

    Raises:
        UserError: it is not finished, or damaged, or cannot be written.
    """
    try:
        run = read_run(folder)
    except files.Unreadable as error:
        raise UserError(f"{short(folder)}: {error}: move it away, then run this again") from None
    if run.state != "finished":
        raise UserError(f"{short(folder)} is {run.state} {run.note}: move it away, then run this again")
    with writing(place, HINT):
        (place / ".hydra").mkdir(parents=True, exist_ok=True)
        for name in LINES:
            (place / name).unlink(missing_ok=True)
            if (folder / name).is_file():
                shutil.copyfile(folder / name, place / name)
    config = OmegaConf.to_yaml({**config_of(folder), "trial": None, "logger": None})
    write_whole(place / ".hydra" / "config.yaml", config, HINT)
    run_record.write_record(place, {"group": None, **{key: run.record.get(key) for key in _OF_THE_RUN}}, HINT)


def finish(jobs: Sequence[Job], kept: Path, work: Path, at_once: int = 2) -> None:
    """Run the jobs that are not kept yet, so many at a time, each on one thread; keep each when it has finished.

    Args:
        kept: what is kept, by the jobs' names.
        work: where runs are made.

    Raises:
        UserError: runs failed; the message names their logs.
        SystemExit: a signal; running runs have saved where they were.
    """
    waiting = [job for job in jobs if not is_kept(job, kept)]
    say(f"runs       {len(jobs) - len(waiting)} of {len(jobs)} are kept in {short(kept)}")
    folders: dict[str, Path] = {}

    def start(job: Job) -> tuple[subprocess.Popen[bytes], Path]:
        process, folders[job.name] = _start(job, work)
        return process, _log(folders[job.name])

    together(waiting, start, lambda job: keep(folders[job.name], kept / job.name), at_once)


def together(
    jobs: Sequence[Job],
    start: Callable[[Job], tuple[subprocess.Popen[bytes], Path]],
    done: Callable[[Job], object],
    at_once: int,
) -> None:
    """Run jobs, so many at a time.

    Args:
        start: begins one; returns its process and its log.
        done: called when one has ended well.

    Raises:
        UserError: some failed; the message names their logs.
        SystemExit: a signal; the running ones were asked to end, and have ended.
    """
    waiting = list(jobs)
    running: dict[subprocess.Popen[bytes], tuple[Job, Path]] = {}
    failed: list[Path] = []
    usual = signal.signal(signal.SIGTERM, cli.end_of_signal)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                process, log = start(job)
                running[process] = (job, log)
            for process in [each for each in running if each.poll() is not None]:
                job, log = running.pop(process)
                if process.returncode:
                    failed.append(log)
                    say(f"failed     {job.name}: {short(log)}")
                else:
                    done(job)
                    say(f"finished   {job.name} ({len(waiting) + len(running)} to go)")
            time.sleep(0.1)
    finally:
        for process in running:
            process.terminate()  # a run saves its state
        for process in running:
            process.wait()
        signal.signal(signal.SIGTERM, usual)
    if failed:
        raise UserError(f"{len(failed)} failed: see {', '.join(map(short, failed))}, then run this again")


def _start(job: Job, work: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Begin a run, or go on with the one that was begun with the same settings."""
    folder, number = work / job.name, 1
    while folder.exists() and not (_has_settings(folder, job) and (folder / "checkpoints" / "last.pt").is_file()):
        number += 1  # of other settings, or ended before there was anything to go on from
        folder = work / f"{job.name}.{number}"
    words = [f"resume={folder}"] if folder.exists() else [*job.words, f"hydra.run.dir={folder}"]
    say(f"{'goes on' if folder.exists() else 'begins':<10} {job.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _log(folder).open("ab") as log:
        return process([sys.executable, "-m", "cvae.train", *words], log), folder


def process(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command on one thread."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ}
    # A session of its own: Ctrl-C reaches this process alone, which ends the others in order.
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")
