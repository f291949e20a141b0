"""Disks that are full or read-only: injected at each writer, and real ones where this process may mount a small disk."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harm import judge
from harm.bench import Bench, Known
from harm.cases import Case, Outcome
from harm.commands import Result
from harm.goes_on import gone_on, words_of
from harm.mounts import Disk, NoMounts, enter
from harm.strike import Strike

_LARGE = 200_000  # KiB
WRITERS = {
    "run": {
        "Hydra's config": r"/run/\.hydra/",
        "run.json": r"/run\.json",
        "train.log": r"/train\.log",
        "metrics.jsonl": r"/metrics\.jsonl",
        "a checkpoint": r"/checkpoints/",
        "pictures": r"/samples/|/curves\.png",
        "all": r"/work/",
    },
    "study": {
        "the journal": r"/studies/",
        "a trial's folder": r"/sweep/[0-9]",
        "multirun.yaml": r"/multirun\.yaml",
        "sweep.json": r"/sweep\.json",
        "best.yaml": r"/best\.yaml",
        "all": r"/work/",
    },
    "pack": {"packed data": r"/cache/packed", "the world": r"/cache/synthetic"},
}


def cases(short: bool) -> Iterator[Case]:
    """Each writer, on an injected and on a real disk, and the control."""
    for subject, writers in WRITERS.items():
        for writer in writers:
            for number, act in enumerate(["ENOSPC"] if short else ["ENOSPC", "EROFS", "ENOSPC", "EIO"]):
                refused = partial(_refused, subject=subject, where=writers[writer], act=act, first=number < 2)
                yield Case(f"disk/{writer} ({subject}), refused/{act}-{number}", refused, (subject,))
        for number in range(2 if short else 10):
            full = partial(_full, subject=subject, share=(number + 0.5) / (2 if short else 10))
            yield Case(f"disk/{subject}, a full disk/{number}", full, (subject,))
    yield Case("disk/report, a full disk/0", _full_report, ("run", "half"))
    for name, protected in _PROTECTED.items():
        yield Case(f"disk/a read-only disk/{name}", partial(_in_namespace, protected), ("run", "half", "started", "cached"))
    for name, stream in {"full": _to_full, "closed": _to_closed}.items():
        yield Case(f"disk/standard output/{name}", stream)
    yield Case("disk/control/a writer that does not care", _careless, control=True)


def _refused(bench: Bench, generator: random.Random, subject: str, where: str, act: str, first: bool) -> Outcome:
    """The operating system refuses a write, and all that follow it there; later it takes them again."""
    known: Known = getattr(bench, subject)
    count = known.count(where)
    nth = 1 if first else generator.randint(1, max(1, count))
    result = bench.place.train(*words_of(bench, subject), strike=Strike(where, nth, act))
    return _mended(bench, subject, result, ["refused"] * (result.code != 0))


def _mended(bench: Bench, subject: str, result: Result, marks: list[str]) -> Outcome:
    if complaint := judge.complaint(result):
        return Outcome(complaint.split()[0], f"{complaint}: {judge.said(result)}")
    return Outcome(*(gone_on(bench, subject) or ("goes on", "")), marks)


def _in_namespace(act: Callable[[Bench], Outcome], bench: Bench, generator: random.Random) -> Outcome:
    try:
        enter()
        return act(bench)
    except NoMounts as error:
        return Outcome("skipped", "", [f"no mounts ({error})"])


def _full(bench: Bench, generator: random.Random, subject: str, share: float) -> Outcome:
    """A real disk that is too small by a share of what is written to it; then it grows."""
    known: Known = getattr(bench, subject)

    def act(bench: Bench) -> Outcome:
        place = "cache" if subject == "pack" else "work"
        disk = Disk(bench.place.root / place, int(share * _kib(known.path(place))))
        result = bench.place.train(*words_of(bench, subject))
        disk.grow(_LARGE)
        return _mended(bench, subject, result, ["full"] * (result.code != 0))

    return _in_namespace(act, bench, generator)


def _full_report(bench: Bench, generator: random.Random) -> Outcome:
    def act(bench: Bench) -> Outcome:
        bench.restore("half")
        disk = Disk(bench.place.work / "out", 100)
        result = bench.place.run("report", "runs=run", "out=out/page.html")
        disk.grow(_LARGE)
        again = bench.place.run("report", "runs=run", "out=out/page.html")
        return _refusal(result) or _refusal(again, 0) or Outcome("goes on", "", ["full"])

    return _in_namespace(act, bench, generator)


def _refusal(result: Result, code: int = 1) -> Outcome | None:
    """What is wrong with a command that should have ended with ``code``; None if nothing is."""
    if complaint := judge.complaint(result, (code,)):
        return Outcome(complaint.split()[0], f"{complaint}: {judge.said(result)}")
    return None


# --- read-only ----------------------------------------------------------------------------------------------------------------


def _protected_work(bench: Bench) -> Outcome:
    disk = Disk(bench.place.work, _LARGE)
    disk.protect()
    refused = _refusal(bench.place.train(*bench.run_words())) or _refusal(bench.place.train(*bench.sweep_words()))
    disk.grow(_LARGE)
    return refused or Outcome(*(gone_on(bench, "run") or ("goes on", "")))


def _protected_run(bench: Bench) -> Outcome:
    bench.restore("half")
    disk = _moved(bench.place.work)
    disk.protect()
    refused = _refusal(bench.place.train("resume=run"))
    disk.grow(_LARGE)
    return refused or Outcome(*(gone_on(bench, "run") or ("goes on", "")))


def _protected_study(bench: Bench) -> Outcome:
    bench.restore("started")
    disk = _moved(bench.place.work)
    disk.protect()
    refused = _refusal(bench.place.train(*bench.sweep_words()))
    disk.grow(_LARGE)
    again = bench.place.train(*bench.sweep_words())
    different = judge.study_difference(bench.place.work / "sweep", bench.started.trials, runs=False)
    return refused or _refusal(again, 0) or Outcome("different" if different else "goes on", different)


def _protected_cache(bench: Bench) -> Outcome:
    """One that lacks the data is refused in one line; one that has them is used as it is."""
    bench.place.cache = bench.place.root / "cache"
    disk = Disk(bench.place.cache, _LARGE)
    disk.protect()
    refused = _refusal(bench.place.train(*bench.cached_words()))
    disk.grow(_LARGE)
    shutil.copytree(bench.cache, bench.place.cache, symlinks=True, dirs_exist_ok=True)
    disk.protect()
    again = bench.place.train(*bench.cached_words())
    different = judge.difference(bench.place.work / "again", bench.cached.path("work/again"))
    return refused or _refusal(again, 0) or Outcome("different" if different else "goes on", different)


def _protected_page(bench: Bench) -> Outcome:
    bench.restore("half")
    Disk(bench.place.work / "out", _LARGE).protect()
    refused = [bench.place.run("report", "runs=run", f"out=out/page.{form}") for form in ("html", "md")]
    return next(filter(None, map(_refusal, refused)), Outcome("goes on"))


_PROTECTED = {
    "the working folder": _protected_work,
    "a run's folder": _protected_run,
    "a study": _protected_study,
    "the cache": _protected_cache,
    "the report's folder": _protected_page,
}


def _moved(folder: Path) -> Disk:
    """Move what a folder holds to a disk of its own in the same place."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    disk = Disk(folder, _LARGE)
    shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
    return disk


# --- standard output ----------------------------------------------------------------------------------------------------------


def _to_full(bench: Bench, generator: random.Random) -> Outcome:
    out = os.open("/dev/full", os.O_WRONLY)
    results = [bench.place.train(word, stdout=out) for word in ("--cfg=job", "--help", "--hydra-help", "--info=config")]
    results.append(bench.place.train(*bench.run_words(), stdout=out))
    return next(filter(None, map(_refusal, results)), Outcome("one line"))


def _to_closed(bench: Bench, generator: random.Random) -> Outcome:
    """As for ``| head -1``: it ends without a word."""
    read, write = os.pipe()
    os.close(read)
    for word in ("--cfg=job", "--help", "--hydra-help", "--info=config"):
        result = bench.place.train(word, stdout=write)
        if result.err or result.code not in (0, 141):
            return Outcome("unclear", judge.said(result))
    return Outcome("no word")


def _careless(bench: Bench, generator: random.Random) -> Outcome:
    """A command that lets the system's error through."""
    return _refusal(bench.place.run("raise", "OSError")) or Outcome("one line")


def _kib(folder: Path) -> int:
    return sum(path.stat().st_blocks // 2 for path in folder.rglob("*") if path.is_file())
