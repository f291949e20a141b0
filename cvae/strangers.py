"""Files that may come from a stranger: what a run folder or a file of settings may say, and what it may not.

Such a file is read within bounds. It runs nothing, reads no environment but to find its data, and names no place that is
written to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from cvae.config import flat
from cvae.errors import UserError, expanded

_MOST = 1_000_000  # bytes of a file of settings; a run's has 3,000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_settings(path: Path) -> Any:
    """What a YAML file holds, interpolations unresolved.

    Raises:
        ValueError: it is too large, or has aliases: a few of them can stand for gigabytes.
        OSError: there is no such regular file; anything else that YAML and OmegaConf raise for a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    with path.open("rb") as file:
        text = file.read(_MOST + 1)
    if len(text) > _MOST:
        raise ValueError(f"it has more than {_MOST // 1000} kB")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_LOADER)):
        raise ValueError("it has YAML aliases")
    return OmegaConf.to_container(OmegaConf.create(text.decode()), resolve=False)


def calls_resolver(value: object) -> bool:
    """Whether a value may call a resolver; ``${lr}``, which only refers to another key, does not."""
    return "${" in str(value) and ":" in str(value)


def refuse_resolvers(settings: Mapping[Any, Any], where: str) -> None:
    """The environment holds secrets: a file may read it to say where its data lie, and for nothing else.

    Raises:
        UserError: a value calls a resolver.
    """
    for key, value in flat(settings).items():
        if calls_resolver(str(value).replace("${oc.env:", "") if key == "data.root" else value):
            shown = f"{key}={str(value)[:80]}"
            raise UserError(f"{where}: {shown} calls a resolver, which only your own config may: write the value itself there")


def refuse_new_root(root: object, where: str) -> None:
    """A file's ``data.root`` is only read; where nothing is there, the synthetic world would be written to it.

    Raises:
        UserError: there is nothing to read.
    """
    if root is not None and not any(expanded(str(root), "data.root").glob("*")):
        raise UserError(
            f"{where} has data.root={root}, which is not there: bring the data back to it, or give data.root=FOLDER"
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
