"""The command that repeats a run as a single one, from what Hydra wrote into its folder."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from cvae import files
from cvae.cli import quoted

OVERRIDES = ".hydra/overrides.yaml"
_SURROUNDINGS = re.compile(r"\+*(trial\.|hydra[./](run|sweep|sweeper|job|mode|launcher|output_subdir|verbose|job_logging)\b)")


def overrides(folder: Path) -> list[str]:
    """The overrides of a run's command, with its own config folders.

    Raises:
        FileNotFoundError: there are none.
        files.Unreadable: they cannot be read.
        TypeError: they are no list.
    """
    words = files.read_yaml(folder, OVERRIDES) or []
    return [*_search_path(folder), *map(str, words)]


def of_the_run(words: Sequence[str]) -> list[str]:
    """Overrides without those that only say where a run ran."""
    return [word for word in words if not _SURROUNDINGS.match(word)]


def alone(words: Sequence[str], in_multirun: bool) -> str:
    """The command with these overrides as a single run's."""
    experiment = in_multirun and any(word.startswith("experiment=") for word in words)  # which may be a multirun
    return shlex.join(["python", "-m", "cvae.train", *words, *["hydra.mode=RUN"] * experiment])


def own_command(folder: Path, in_multirun: bool) -> str | None:
    """The command of a run of one's own, for it alone; None where Hydra wrote none."""
    if not (folder / ".hydra" / "hydra.yaml").is_file():
        return None
    with contextlib.suppress(OSError, files.Unreadable, TypeError):
        return alone(of_the_run(overrides(folder)), in_multirun)
    return None


def _search_path(folder: Path) -> list[str]:
    """The override that names the config folders of the user's own that the run's command named, if any."""
    with contextlib.suppress(FileNotFoundError, KeyError, TypeError):
        sources = files.read_yaml(folder, ".hydra/hydra.yaml")["hydra"]["runtime"]["config_sources"]
        own = [quoted(f"{each['schema']}://{each['path']}") for each in sources if "command-line" in each["provider"]]
        return [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    return []
