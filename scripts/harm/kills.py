"""Kills and signals: at any moment and in the middle of a write, to a run, a sweep and a packing of data."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from harm import judge
from harm.bench import WRITES, Bench, Known
from harm.cases import Case, Outcome
from harm.commands import Result
from harm.goes_on import gone_on, words_of
from harm.strike import Strike

# Which command is harmed, by which signals, while it writes what.
_SUBJECTS = {
    "run": (("SIGKILL", "SIGTERM", "SIGKILL", "SIGINT", "SIGUSR1"), ("checkpoint", "line", "checkpoint", "record", "picture")),
    "study": (("SIGKILL", "SIGTERM", "SIGKILL", "SIGINT"), ("journal", "checkpoint", "summary", "line")),
    "pack": (("SIGKILL", "SIGTERM", "SIGKILL", "SIGINT"), ("cache", "world")),
}
# The exit codes that tell how a command was stopped; 0 if it was done already.
_CODES = {"SIGKILL": (-9,), "SIGTERM": (75, 143, 0), "SIGINT": (130, 0), "SIGUSR1": (75, -10, 0)}


def cases(count: int) -> Iterator[Case]:
    """So many kills in a fair order, two of three in the middle of a write, and the control."""
    subjects = islice(cycle(("run", "study", "run", "pack")), count)
    signals = {name: cycle(found) for name, (found, _) in _SUBJECTS.items()}
    writes = {name: cycle(found) for name, (_, found) in _SUBJECTS.items()}
    moments = cycle((True, True, False))
    for number, subject in enumerate(subjects):
        signal = next(signals[subject])
        write = next(writes[subject]) if next(moments) else None
        act = partial(_kill, subject=subject, signal=signal, write=write)
        yield Case(f"kills/{subject}, {signal}/{number}-{write or 'any'}", act, (subject,))
    yield Case("kills/control/one bit of a weight", _one_bit, ("run",), control=True)


def _kill(bench: Bench, generator: random.Random, subject: str, signal: str, write: str | None) -> Outcome:
    fraction = generator.uniform(0.02, 0.95)
    stopped = _stopped(bench, subject, signal, write, fraction)
    for _ in range(3):
        if stopped.code != 0 or write:
            break
        fraction /= 2  # it was faster than the undisturbed one, and done before
        bench.clear()
        stopped = _stopped(bench, subject, signal, write, fraction)
    if complaint := judge.complaint(stopped, _CODES[signal]):
        return Outcome(complaint.split()[0], f"when stopped: {complaint}: {judge.said(stopped)}")
    marks = ["stopped"] * (stopped.code != 0) + ["during a write"] * bool(write)
    return Outcome(*(gone_on(bench, subject) or ("identical", "")), marks)


def _stopped(bench: Bench, subject: str, signal: str, write: str | None, fraction: float) -> Result:
    """The command, met by a signal at a fraction of its writes of one kind, or of its time."""
    known: Known = getattr(bench, subject)
    words = words_of(bench, subject)
    if write:
        nth = 1 + int(fraction * known.writes(write))
        return bench.place.train(*words, strike=Strike(WRITES[write], nth, signal))
    running = bench.place.start("train", *words)
    time.sleep(fraction * known.result.seconds)
    running.send(signal)
    return running.wait()


def _one_bit(bench: Bench, generator: random.Random) -> Outcome:
    """The same run, one weight of which differs in its last bit: what compares runs must see it."""
    import torch

    bench.place.train(*bench.run_words())
    path = bench.place.work / "run/checkpoints/last.pt"
    state = torch.load(path, weights_only=True)
    weight = next(tensor for tensor in state["model"].values() if tensor.dtype == torch.float32 and tensor.numel() > 1)
    weight.view(torch.int32).view(-1)[0] ^= 1
    torch.save(state, path)
    different = judge.difference(Path(bench.place.work / "run"), bench.run.path("work/run"))
    return Outcome("different" if different else "identical", different)
