"""Which folders are a study's: those that its storage lost trials of, and those that it names but that another sweep made."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from cvae import files
from cvae.cli import quoted
from cvae.console import short, warn
from cvae.errors import UserError
from cvae.sweep.storage import hidden
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import PLACE

_LARGEST = 1_000_000  # bytes of an overrides.yaml
_WORD = re.compile(r"^- \+*([^=\s]+)=(.*)$", re.MULTILINE)


def is_of(storage: str, place: Path) -> bool:
    """Whether a folder was made by a sweep with this storage (without password), as its multirun.yaml tells.

    A study may come from a stranger: what it calls its folder can be anybody's.
    """
    with contextlib.suppress(FileNotFoundError, files.Unreadable, KeyError, TypeError):
        return bool(files.read_yaml(place, "multirun.yaml", _LARGEST)["hydra"]["sweeper"]["storage"] == storage)
    return False


def refuse_unknown(study: SweepStudy, keys: Iterable[str], sweep: Path) -> None:
    """Refuse a study whose sweep folders hold trials, or parameters, that it does not know.

    A study without any trial is only warned of: it may be meant to begin anew.

    Args:
        keys: what is searched.
        sweep: the folder of this start; those beside it may be of the same study.

    Raises:
        UserError: it names the folders, and how to go on with and without them.
    """
    places = {Path(trial.system_attrs[PLACE]) for trial in study.trials if PLACE in trial.system_attrs}
    # The folders are read first: another sweeper may just have begun a trial.
    found = list(_trials_in(study, places or _beside(sweep)))
    trials = study.trials
    unknown = {number: folder for number, words, folder in found if not _knows(trials[number : number + 1], words, keys)}
    if not unknown:
        return
    numbers = ", ".join(map(str, sorted(unknown)[:5])) + (", ..." if len(unknown) > 5 else "")
    folders = [unknown[number] for number in sorted(unknown)]
    lost = f"study {study.name} in {hidden(study.url)} has lost trials {numbers}: {short(folders[0])} holds the first of them"
    if not places:
        warn(f"{lost}. It begins anew; if it should not, put back a copy of it")
        return
    by_place: dict[Path, list[str]] = {}
    for folder in folders:
        by_place.setdefault(folder.parent.with_name(f"{folder.parent.name}.lost"), []).append(short(folder))
    moves = [f"mkdir -p {(to := shlex.quote(short(away)))} && mv {shlex.join(each)} {to}" for away, each in by_place.items()]
    raise UserError(f"{lost}. Put back its newest copy, or go on without them: {' && '.join(moves)}")


def _knows(trial: Sequence[FrozenTrial], words: dict[str, str], keys: Iterable[str]) -> bool:
    """Whether a study has the trial of a folder, as it was when its job began."""
    if not trial:
        return False
    (known,) = trial
    return PLACE in known.system_attrs and all(key in known.params for key in keys if key.lstrip("+") in words)


def _trials_in(study: SweepStudy, places: Iterable[Path]) -> Iterator[tuple[int, dict[str, str], Path]]:
    """The trials of a study in sweep folders: number, the words of its job, folder. Seeds and cases have folders below."""
    name, storage = quoted(study.name), quoted(hidden(study.url))
    for place in places:
        for folder in _folders(place):
            below = (each for each in _folders(folder) if each.name.startswith(("seed_", "case_")))
            words = _words(folder) or next(filter(None, map(_words, below)), None)
            if words is None:
                continue
            if (words.get("trial.study"), words.get("trial.storage")) != (name, storage):
                break  # a sweep folder is of one study
            with contextlib.suppress(ValueError):
                yield int(words["trial.number"]), words, folder


def _words(folder: Path) -> dict[str, str] | None:
    """The overrides of a job of a sweep; None if there was no such job."""
    path = folder / ".hydra" / "overrides.yaml"
    with contextlib.suppress(OSError, ValueError):
        if path.is_file() and path.stat().st_size < _LARGEST:
            words = dict(_WORD.findall(path.read_text()))
            return words if "trial.number" in words else None
    return None


def _beside(sweep: Path) -> list[Path]:
    return [folder for folder in _folders(sweep.parent) if (folder / "multirun.yaml").is_file()]


def _folders(place: Path) -> list[Path]:
    try:
        return [folder for folder in place.iterdir() if folder.is_dir()]
    except OSError:
        return []
