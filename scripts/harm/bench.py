"""A bench: small data, and what an undisturbed run, sweep and packing of them gives. Every process of cases has its own.

Cases work in ``place``, a folder of one fixed name that is emptied between them: records hold absolute paths, so a started
study can be put back by copying it to where it was made, and nowhere else.
"""

from __future__ import annotations

import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harm.commands import Place, Result
from harm.judge import trials_of
from harm.page import view_of
from harm.strike import Strike

_SPLITS = {"train": 5, "validate": 2, "test": 1}
_FRAMES = 8
WRITES = {  # what is written, by the paths
    "checkpoint": r"/checkpoints/",
    "line": r"/metrics\.jsonl",
    "record": r"/run\.json|/\.hydra/|/owner\.json",
    "picture": r"/samples/|/curves\.png",
    "journal": r"/studies/",
    "summary": r"/(sweep\.json|best\.yaml|optimization_results\.yaml|multirun\.yaml)",
    "cache": r"/cache/packed",
    "world": r"/cache/synthetic",
}
_SHORT = [
    *("model=tiny", "likelihood=mse", "kl_schedule=cyclical", "beta=1.0", "batch_size=2"),
    *("n_future=2", "n_eval=8", "precision=fp32", "device=cpu", "logger=none"),
]
_SWEEPER = [
    *("hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra/launcher=basic"),
    *("hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=study", "hydra.sweep.dir=sweep"),
]
JOURNAL = "work/multirun/studies/study.journal"


class Bench:
    """The bench in ``folder``, which is made as far as it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.cache, self.snaps = folder / "data", folder / "cache", folder / "snaps"
        draw(self.data)
        self.clear()

    def clear(self) -> None:
        """Empty the place. It shares the bench's cache until a case says otherwise."""
        shutil.rmtree(self.folder / "place", ignore_errors=True)
        self.place = Place(self.folder / "place", self.cache)

    def restore(self, name: str) -> None:
        """Put back what was made under this name, where it was made."""
        shutil.copytree(self.snaps / name, self.place.root, symlinks=True, dirs_exist_ok=True)

    # --- commands -----------------------------------------------------------------------------------------------------------

    def run_words(self, folder: str = "run") -> list[str]:
        """The words of the run: 4 epochs of 3 steps, pictures every other epoch."""
        own = ["epochs=4", "epoch_size=3", "sample_every=2", f"hydra.run.dir={folder}"]
        return ["data=course", f"data.root={self.data}", *_SHORT, *own]

    def sweep_words(self, trials: int = 3) -> list[str]:
        """The words of the sweep: a grid of 3 learning rates, 2 epochs each."""
        own = ["epochs=2", "epoch_size=2", "sample_every=0", f"hydra.sweeper.n_trials={trials}"]
        return ["-m", "data=course", f"data.root={self.data}", *_SHORT, *own, *_SWEEPER, "lr=choice(1e-4,1e-3,3e-3)"]

    @staticmethod
    def pack_words(folder: str = "packed") -> list[str]:
        """The words of a run of one step on a simulated world of its own, which is made and packed for it."""
        own = ["epochs=1", "epoch_size=1", "sample_every=0", f"hydra.run.dir={folder}"]
        return ["data.train=3", "data.validate=2", "data.test=0", *_SHORT, *own]

    def again_words(self) -> list[str]:
        """The words of a run by best.yaml: what is long or lies elsewhere stays in the command, whatever the file lost."""
        own = ["epochs=1", "epoch_size=2", "sample_every=0", "hydra.run.dir=again"]
        return ["experiment=sweep/best.yaml", "data=course", f"data.root={self.data}", *_SHORT, *own]

    def cached_words(self) -> list[str]:
        return [*self.run_words("again"), "epochs=1", "epoch_size=12"]

    # --- what undisturbed commands give -------------------------------------------------------------------------------------

    @cached_property
    def run(self) -> Known:
        self.place.train(*self.run_words("first"))  # packs
        return self._known("run", self.run_words())

    @cached_property
    def half(self) -> Result:
        """The run stopped by SIGTERM in its third epoch, as ``half``; what resuming it says."""
        self.clear()
        strike = Strike(WRITES["line"], _second_line(self.run.events), "SIGTERM")
        stopped = self.place.train(*self.run_words(), strike=strike)
        assert stopped.code == 75, stopped.text
        self._snap("half")
        return _done(self.place.train("resume=run"))

    @cached_property
    def pack(self) -> Known:
        return self._known("pack", self.pack_words(), own_cache=True)

    @cached_property
    def study(self) -> Known:
        assert self.run
        return self._known("study", self.sweep_words())

    @cached_property
    def started(self) -> Known:
        """The sweep with 2 of its 3 trials done, as ``started``; what completing it gives."""
        assert self.run
        self.clear()
        _done(self.place.train(*self.sweep_words(2)))
        self._snap("started")
        return self._known("continued", self.sweep_words(), fresh=False)

    @cached_property
    def again(self) -> Known:
        """A run with the sweep's best settings, of one epoch, as ``experiment=best.yaml`` gives it."""
        assert self.started
        self.clear()
        self.restore("started")
        return self._known("again", self.again_words(), fresh=False)

    @cached_property
    def cached(self) -> Known:
        """A run on a copy of the packed data, of one epoch that reads nearly all of them."""
        assert self.run
        self.clear()
        self.copy_cache()
        return self._known("cached", self.cached_words(), fresh=False)

    @cached_property
    def loaded(self) -> dict[str, Result]:
        """What opening both checkpoints of the stopped run prints."""
        self._put("half")
        return {name: _done(self.place.run("load", "run", name)) for name in ("best", "last")}

    @cached_property
    def reports(self) -> dict[str, tuple[Result, dict[str, Any]]]:
        """What the report says of the stopped run and of the started sweep."""
        found = {}
        for snap, runs in (("half", "run"), ("started", "sweep")):
            self._put(snap)
            found[runs] = self.report(runs)
            _done(found[runs][0])
        return found

    def report(self, runs: str) -> tuple[Result, dict[str, Any]]:
        """Report on a folder: the result, and the page's view; an empty one if there is no page."""
        result = self.place.run("report", f"runs={runs}", "out=page.html")
        return result, view_of(self.place.work / "page.html") if result.code == 0 else {}

    def _put(self, snap: str) -> None:
        assert getattr(self, snap)
        self.clear()
        self.restore(snap)

    def copy_cache(self) -> None:
        """Give the place a cache of its own; the data that it was packed of stay where they are."""
        self.place.cache = self.place.root / "cache"
        shutil.copytree(self.cache, self.place.cache, symlinks=True)

    def _known(self, name: str, words: list[str], own_cache: bool = False, fresh: bool = True) -> Known:
        if fresh:
            self.clear()
        if own_cache:
            self.place.cache = self.place.root / "cache"
        log = self.folder / f"{name}.events"
        result = _done(self.place.train(*words, strike=Strike(log=log)))
        self._snap(name)
        return Known(self.snaps / name, self.place.root, result, log)

    def _snap(self, name: str) -> None:
        shutil.copytree(self.place.root, self.snaps / name, symlinks=True)


class Known:
    """What an undisturbed command gave, its folder ``place`` copied to ``snap``, and the events of its writes."""

    def __init__(self, snap: Path, place: Path, result: Result, log: Path) -> None:
        self.snap, self.result, self._place = snap, result, place
        self.events = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]

    def path(self, below: str) -> Path:
        return self.snap / below

    @cached_property
    def trials(self) -> dict[str, tuple[Any, ...]]:
        """The trials of a sweep, with the copies of their folders."""
        found = trials_of(self.snap / "work/sweep")
        return {key: (*rest, str(self.snap / Path(folder).relative_to(self._place))) for key, (*rest, folder) in found.items()}

    def writes(self, what: str) -> int:
        """How many events there were on what ``WRITES`` calls so."""
        return self.count(WRITES[what])

    def count(self, where: str) -> int:
        """How many events there were on paths that a regular expression is found in."""
        return sum(bool(re.search(where, path)) for path in self.events)


def _second_line(events: list[str]) -> int:
    """The number of the event on metrics.jsonl in the middle of them: in the second epoch of four, or the third."""
    return sum(path.endswith("/metrics.jsonl") for path in events) // 2 + 1


def _done(result: Result) -> Result:
    if result.code != 0:
        raise SystemExit(f"an undisturbed command failed: {result.text}")
    return result


def draw(root: Path) -> None:
    """A small data set in the course layout: a bright square moves over a grey ramp."""
    generator = np.random.default_rng(0)
    for split, count in _SPLITS.items():
        for number in range(count):
            folder = root / split / "traj" / str(number)
            folder.mkdir(parents=True)
            x, y, step = *generator.integers(0, 30, 2), int(generator.integers(1, 4))
            for t in range(_FRAMES):
                frame_HWC = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 2, 64, 0).repeat(3, 2)
                frame_HWC[y : y + 16, x + step * t : x + step * t + 16] = (220, 60 * (number % 4), 90)
                Image.fromarray(frame_HWC).save(folder / f"{t}.png")
            np.savetxt(folder / "actions.csv", generator.normal(size=(_FRAMES, 4)), delimiter=",", fmt="%.6f")
            np.savetxt(folder / "endeffector_positions.csv", generator.normal(size=(_FRAMES, 3)), delimiter=",", fmt="%.6f")
