"""Two writers of one folder: one of them is refused with the other's process id, and what the other writes is its own."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harm import judge
from harm.bench import Bench
from harm.cases import Case, Outcome
from harm.commands import Result, Running
from harm.strike import Strike

_PATIENCE = 60.0  # seconds


def cases(count: int) -> Iterator[Case]:
    """Each way to meet, ``count`` times at moments of its own, and the control."""
    for number in range(count):
        for first in ("start", "resume"):
            for second in ("start", "resume"):
                act = partial(_beside, first=first, second=second)
                yield Case(f"writers/a {second} beside a live {first}/{number}", act, ("run", "half"))
            yield Case(f"writers/two at once, {first}/{number}", partial(_at_once, word=first), ("run", "half"))
        yield Case(f"writers/two sweeps at once/{number}", _two_sweeps, ("study",))
        for name, left in {"lives": 60.0, "died": -1.0}.items():
            act = partial(_elsewhere, left=left)
            yield Case(f"writers/an owner on another host that {name}/{number}", act, ("run", "half"))
    yield Case("writers/control/two that take turns", _interleaved, ("run",), control=True)


def _words(bench: Bench, kind: str) -> list[str]:
    return bench.run_words() if kind == "start" else ["resume=run"]


def _beside(bench: Bench, generator: random.Random, first: str, second: str) -> Outcome:
    """The first waits in the middle of its writing; meanwhile comes the second."""
    if first == "resume":
        bench.restore("half")
    gate = bench.place.root / "gate"
    where, last = generator.choice([(r"/metrics\.jsonl", 3), (r"/checkpoints/", 6)])
    strike = Strike(where, generator.randint(1, last), "pause", gate)
    owner = bench.place.start("train", *_words(bench, first), strike=strike)
    _wait(owner, gate.with_name("gate.reached"))
    other = bench.place.train(*_words(bench, second))
    gate.touch()
    result = owner.wait()
    refused = _refused(other, owner.pid if second == "resume" else None)
    return refused or _whole(bench, result)


def _refused(result: Result, pid: int | None) -> Outcome | None:
    """What is wrong with the second's refusal; None if nothing is."""
    if complaint := judge.complaint(result, (1,)):
        return Outcome("mixed" if result.code == 0 else complaint.split()[0], f"{complaint}: {judge.said(result)}")
    if pid is not None and str(pid) not in result.err:
        return Outcome("unclear", f"process {pid} is not named: {judge.said(result)}")
    return None


def _whole(bench: Bench, result: Result) -> Outcome:
    if complaint := judge.complaint(result, (0,)):
        return Outcome(complaint.split()[0], f"{complaint}: {judge.said(result)}")
    different = judge.difference(bench.place.work / "run", bench.run.path("work/run"))
    return Outcome("mixed", different) if different else Outcome("one refused")


def _at_once(bench: Bench, generator: random.Random, word: str) -> Outcome:
    """Neither waits for the other: one does all, the other is refused, or finds it done."""
    if word == "resume":
        bench.restore("half")
    running = [bench.place.start("train", *_words(bench, word)) for _ in range(2)]
    results = sorted((each.wait() for each in running), key=lambda result: result.code)
    if complaint := judge.complaint(results[1], (0, 1) if word == "resume" else (1,)):
        return Outcome("mixed" if results[1].code == 0 else complaint.split()[0], f"{complaint}: {judge.said(results[1])}")
    return _whole(bench, results[0])


def _two_sweeps(bench: Bench, generator: random.Random) -> Outcome:
    """They share a study: each trial is run once, by one of them."""
    running = [bench.place.start("train", *bench.sweep_words()) for _ in range(2)]
    for result in [each.wait() for each in running]:
        if complaint := judge.complaint(result, (0,)):
            return Outcome(complaint.split()[0], f"{complaint}: {judge.said(result)}")
    different = judge.study_difference(bench.place.work / "sweep", bench.study.trials)
    return Outcome("mixed", different) if different else Outcome("shared")


def _elsewhere(bench: Bench, generator: random.Random, left: float) -> Outcome:
    """A run whose folder says that a process on another host owns it for ``left`` seconds more."""
    bench.restore("half")
    owner = {"host": "elsewhere 12345678", "pid": 4711, "started": 1.0, "until": time.time() + left, "token": "0" * 16}
    (bench.place.work / "run/owner.json").write_text(json.dumps(owner).ljust(512))
    result = bench.place.train("resume=run")
    if left > 0:
        named = "elsewhere" in result.err
        return _refused(result, 4711) or (Outcome("one refused") if named else Outcome("unclear", judge.said(result)))
    return _whole(bench, result)


def _interleaved(bench: Bench, generator: random.Random) -> Outcome:
    """The same run with a line of another one between its own."""
    result = bench.place.train(*bench.run_words())
    path = Path(bench.place.work / "run/metrics.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[1], *lines[2:]]))
    return _whole(bench, result)


def _wait(running: Running, path: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not path.exists() and running.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
