"""A case: one harm and what came of it. Cases are told apart by an id, from which all that is random in them is drawn."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harm.bench import Bench

CASE_LIMIT = 240.0  # seconds


@dataclass
class Outcome:
    """What came of a case.

    Args:
        verdict: one word, which the table counts.
        broken: the promise that was broken, in words; empty if none was.
        marks: further things to count, such as ``during a write``.
    """

    verdict: str
    broken: str = ""
    marks: list[str] = field(default_factory=list)
    case: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Case:
    """One harm.

    Args:
        id: ``KIND/ROW/NAME``; ROW is the case's row in the table.
        act: does it in a bench whose ``place`` is empty, with a generator of its own.
        needs: what of the bench must be made before: names of its properties.
        control: a harm that nothing guards against, which must be counted as broken.
    """

    id: str
    act: Callable[[Bench, random.Random], Outcome]
    needs: tuple[str, ...] = ()
    control: bool = False

    @property
    def kind(self) -> str:
        return self.id.split("/")[0]

    @property
    def row(self) -> str:
        return self.id.split("/")[1]


def run_cases(
    cases: Sequence[Case], benches: Sequence[Callable[[], Bench]], seed: int, deadline: float, kept: Path
) -> Iterator[Outcome]:
    """Run cases in order, one bench a process, until ``deadline`` (of ``time.monotonic``); yield outcomes as they come."""
    queue_end, queue = os.pipe()
    outcomes, outcomes_end = os.pipe()
    for index in range(len(cases)):
        os.write(queue, index.to_bytes(4, "little"))
    os.close(queue)
    lanes = []
    for make in benches:
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                os.close(outcomes)
                _work(make, cases, seed, deadline, kept, queue_end, outcomes_end)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        lanes.append(pid)
    os.close(queue_end)
    os.close(outcomes_end)
    try:
        with open(outcomes, encoding="utf-8") as lines:  # noqa: PTH123 - a descriptor
            yield from (Outcome(**json.loads(line)) for line in lines)
    finally:
        failed = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in lanes]
    if any(failed):
        yield Outcome("error", f"a process of the cases ended with {failed}", case="all/script/end")


def _work(
    make: Callable[[], Bench],
    cases: Sequence[Case],
    seed: int,
    deadline: float,
    kept: Path,
    queue: int,
    outcomes: int,
) -> None:
    bench = make()
    while time.monotonic() < deadline and (word := os.read(queue, 4)):
        case = cases[int.from_bytes(word, "little")]
        began = time.monotonic()
        for name in case.needs:
            getattr(bench, name)
        bench.clear()
        outcome = _apart(case, bench, random.Random(f"{seed} {case.id}"))
        outcome.case, outcome.seconds = case.id, round(time.monotonic() - began, 2)
        if case.control:
            outcome = _controlled(outcome)
        if outcome.broken:
            shutil.copytree(
                bench.place.root, kept / case.id.replace("/", "_"), symlinks=True, ignore=_special, dirs_exist_ok=True
            )
        outcome.broken = outcome.broken[:1500]
        os.write(outcomes, (json.dumps(asdict(outcome)) + "\n").encode())


def _controlled(outcome: Outcome) -> Outcome:
    """The outcome of a control: that its harm was counted."""
    if outcome.broken:
        return Outcome("counted", "", outcome.marks, outcome.case, outcome.seconds)
    return Outcome("missed", f"a harm that nothing guards against was not counted ({outcome.verdict})", [], outcome.case)


def _special(folder: str, names: list[str]) -> set[str]:
    """What is not copied for people to look at: pipes, and files that are large."""
    paths = {name: Path(folder) / name for name in names}
    return {
        name
        for name, path in paths.items()
        if not path.is_symlink() and not path.is_dir() and (not path.is_file() or path.stat().st_size > 50e6)
    }


def _apart(case: Case, bench: Bench, generator: random.Random) -> Outcome:
    """Run a case in a process of its own: it may enter a mount namespace, and what hangs can be ended."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            outcome = case.act(bench, generator)
        except BaseException:
            outcome = Outcome("error", traceback.format_exc()[-1400:])
        finally:
            os.write(send, json.dumps(asdict(outcome)).encode())
            os._exit(0)
    os.close(send)
    ready = select.select([receive], [], [], CASE_LIMIT)[0]
    if not ready:
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    text = os.read(receive, 65536) if ready else b""
    os.close(receive)
    return Outcome(**json.loads(text)) if text else Outcome("hang", f"not done after {CASE_LIMIT:.0f} s")
