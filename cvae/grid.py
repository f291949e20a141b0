"""The end of a plain multirun: a table of its jobs, and the command that compares them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from cvae.console import aligned, say, short
from cvae.errors import UserError

_CELL = 40  # letters


class NotedFolder(Callback):
    """Notes where a plain multirun writes: its name holds a moment and a chance, and only Hydra's own config has settled them.

    An Optuna sweep has a summary of its own.
    """

    last: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        NotedFolder.last = None if "n_trials" in config.hydra.sweeper else Path(config.hydra.sweep.dir)


def say_results() -> None:
    """Print a row for each job of the multirun that was noted, if any: the settings that differ, its best, and its folder."""
    folder, NotedFolder.last = NotedFolder.last, None
    if folder is None or not folder.is_dir():
        return
    from cvae.runs.collection import collect  # late: it reads journals of studies too

    try:
        found = collect([str(folder)])
    except UserError:  # no job came to its start
        return
    for line in _lines(found):
        say(line, log=False)  # there is no job any more whose log it is
    say(f"compare them  {shlex.join(['python', '-m', 'cvae.report', f'runs={short(folder)}'])}", log=False)


def _lines(found: Any) -> list[str]:
    """A table of the runs that were found, the best of them with a star."""
    from cvae.runs.collection import main_objective
    from cvae.runs.differing import differing

    runs, objective = found.runs, main_objective(found.runs)
    keys = differing(runs)
    ended = [run.best(objective.key) for run in runs]
    best = min((value for value, _ in filter(None, ended)), key=objective.rank, default=None)
    header = [*keys, f"best {objective.title}", "epoch", "folder"]
    rows = []
    for run, value in zip(runs, ended, strict=True):
        score, epoch = (objective.text(value[0]), str(value[1])) if value else ("-", "-")
        star = " *" if value and value[0] == best else ""
        state = "" if run.state == "finished" else f"  {run.state}"
        rows.append([*(_cell(run.settings.get(key)) for key in keys), score + star, epoch, short(run.folder) + state])
    rows += [[*("-" for _ in keys), "-", "-", f"{short(path)}  failed"] for path, _ in found.failed]
    return aligned([header, *rows])


def _cell(value: object) -> str:
    text = "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
