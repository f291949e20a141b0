"""Files that may come from a stranger: what a run folder or a file of settings may say, and what it may not.

Such a file is read within bounds. It runs nothing, reads no environment but to find its data, and names no place that is
written to. The same goes for a command that such a file says was its own, and that people may paste.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cvae.config import flat
from cvae.console import printable
from cvae.errors import UserError, expanded
from cvae.files import yaml_text

_CHECK = "# checksum of the lines below: "


def read_settings(folder: Path, name: str) -> Any:
    """What a YAML file in a folder holds, interpolations unresolved.

    Raises:
        FileNotFoundError: there is none.
        files.Unreadable: it is no regular file, too large, or no YAML that is safe to parse; and what OmegaConf raises besides.
    """
    return OmegaConf.to_container(OmegaConf.create(yaml_text(folder, name)), resolve=False)


def checked_settings(text: str) -> str:
    """The text of a file of settings with a line before it that tells whether it was changed since."""
    return f"# @package _global_\n{_CHECK}{_sum(text)}\n{text}"


def is_changed(folder: Path, name: str) -> bool:
    """Whether a file of settings is not as ``checked_settings`` made it; False for one that says nothing of it."""
    _, *rest = yaml_text(folder, name).split("\n", 2)
    return len(rest) == 2 and rest[0].startswith(_CHECK) and rest[0] != _CHECK + _sum(rest[1])


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def calls_resolver(value: object) -> bool:
    """Whether a value may call a resolver; ``${lr}``, which only refers to another key, does not."""
    return "${" in str(value) and ":" in str(value)


def refuse_resolvers(settings: Mapping[Any, Any], where: str, given: Container[str] = ()) -> None:
    """The environment holds secrets: a file may read it to say where its data lie, and for nothing else.

    Args:
        given: keys whose values the user gives: those of the file do not count.

    Raises:
        UserError: a value calls a resolver.
    """
    for key, value in flat(settings).items():
        if key not in given and calls_resolver(str(value).replace("${oc.env:", "") if key == "data.root" else value):
            shown = f"{key}={str(value)[:80]}"
            raise UserError(f"{where}: {shown} calls a resolver, which only your own config may: write the value itself there")


def refuse_new_root(root: object, where: str, written: object = None) -> None:
    """A file's ``data.root`` is only read; where nothing is there, the synthetic world would be written to it.

    Args:
        written: the root as it stands in the file: one that reads the environment is not shown.

    Raises:
        UserError: there is nothing to read.
    """
    if root is not None and not any(expanded(str(root), "data.root").glob("*")):
        shown = written if "${" in str(written) else root
        raise UserError(
            f"{where} has data.root={shown}, which is not there: bring the data back to it, or give data.root=FOLDER"
        )


def forget_caches(settings: Any) -> None:
    """Set every ``cache_dir`` to null, however deep: what is made on the way goes to the user's own cache."""
    if isinstance(settings, list):
        settings = dict(enumerate(settings))
    if isinstance(settings, dict):
        for key, value in settings.items():
            if key == "cache_dir":
                settings[key] = None
            forget_caches(value)


def refuse_links(folder: Path) -> None:
    """A run that goes on writes into its folder: a link there must not lead out of it, and a pipe would block.

    Raises:
        UserError: there is such a link, or something that is neither file nor folder.
    """
    home = folder.resolve()
    for place, folders, files in os.walk(home):
        for path in (Path(place, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not Path(os.path.realpath(path)).is_relative_to(home):
                raise UserError(f"{path} is a link that leads out of the run folder, which a resumed run writes to: remove it")
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{path} is neither a file nor a folder: remove it")
        folders[:] = [name for name in folders if name != "wandb"]  # W&B links to its own logs elsewhere


# --- commands to paste ------------------------------------------------------------------------------------------------

# What a command may set of Hydra's: which sweeper and launcher, and what a sweep searches and how long. All else can run code.
_SWEEPS = re.compile(
    r"hydra\.mode|hydra/sweeper(/sampler|/pruner)?|hydra/launcher|hydra\.launcher\.(n_jobs|gpus|threads|timeout_min)"
    r"|hydra\.sweeper\.(params|conditions|direction|study_name|storage|n_trials|n_jobs|timeout|enqueue|seeds_per_trial|retry"
    r"|max_failures|max_failure_rate|top_k|top_k_seeds|constraints|(sampler|pruner)\.\w+)"
)
_PATH = re.compile(r"(^|[\['\"\s,])/|\.\.")
_FLAGS = ("-m", "--multirun")


def names_path(value: object) -> bool:
    """Whether a group's option is a path that leads out of its group: such a file would be read as the user's own config."""
    return bool(_PATH.search(str(value)))


def pasteable(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command that cannot run code, write or send somewhere; and the keys of those that could."""
    kept: list[str] = []
    left_out: list[str] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("-"):
            (kept if word in _FLAGS else left_out).append(printable(word.partition("=")[0]))
            if word in ("--config-dir", "--config-path", "--config-name", "-cd", "-cp", "-cn"):
                next(rest, None)
        elif _harmless(word):
            kept.append(word)
        else:
            left_out.append(printable(re.split("[={]", word.lstrip("+~"))[0])[:60])
    return kept, list(dict.fromkeys(left_out))


def _harmless(word: str) -> bool:
    key, _, value = word.lstrip("+~").partition("=")
    parts, group = re.split(r"[./@]", key), key.split("@")[0]
    if not ("=" in word or word.startswith("~")) or not re.fullmatch(r"[\w./@-]+", key):
        return False
    if "_target_" in word or printable(word) != word or "\n" in word:
        return False
    if "hydra" in parts:
        return bool(_SWEEPS.fullmatch(key)) and not calls_resolver(value) and not names_path(value if "/" in key else "")
    if parts[0] in ("allow_targets", "resume", "show", "trial") or parts[-1] == "cache_dir":
        return False
    if "logger" in parts and (
        parts[-1] == "entity" or (parts[-1] == "mode" and value not in ("offline", "disabled")) or "{" in value
    ):
        return False
    if calls_resolver(value.replace("${oc.env:", "") if key == "data.root" else value):
        return False
    return "." in group or not names_path(value)


def said(left_out: Sequence[str]) -> str:
    """A sentence on what was left out of a command; empty if nothing was."""
    return f"Left out, since it could run code or write elsewhere: {', '.join(left_out)}. Add your own." if left_out else ""
