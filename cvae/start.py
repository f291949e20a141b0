"""What a command line of cvae.train asks for, before Hydra makes a run folder, and what a start needs."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.conf import HydraConf
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from cvae.cli import is_multirun, override_values, parsed, quoted, warn_of_hidden
from cvae.config import CONF, build
from cvae.console import only_prints
from cvae.errors import UserError, expanded


def action(arguments: Sequence[str]) -> str | None:
    """``resume`` or ``show`` if the command line asks for it, else None: a run or a multirun.

    Raises:
        UserError: it asks for the first in a multirun.
    """
    if only_prints(arguments):
        return None
    asked = [key for key in ("resume", "show") if override_values(arguments).get(key, "null") != "null"]
    if "resume" in asked and is_multirun(arguments):
        raise UserError("resume= acts on one run: leave -m out")
    return asked[0] if asked else None


def under_torchrun() -> bool:
    """Whether this is one of the processes that torchrun starts."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()


def compose(words: Sequence[str]) -> DictConfig:
    """Compose the training config as a command line asks for it, outside of a Hydra job: no folder is made.

    Args:
        words: overrides and Hydra's flags (``--config-dir``, ``--config-name``, ``--config-path``). What sweeps is left out.

    Raises:
        HydraException: there is no such key or option, or the words cannot be read.
        UserError: ``--config-dir`` is not a folder.
    """
    cfg = load(args := parsed(words), args.overrides)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def load(args: argparse.Namespace, overrides: list[str]) -> DictConfig:
    """The config with its ``hydra`` node, found where the flags say."""
    found = loader(args.config_path, args.config_dir)
    return found.load_configuration(args.config_name or "config", overrides, RunMode.MULTIRUN)


def loader(config_path: str | None = None, config_dir: str | None = None, further: Sequence[str] = ()) -> ConfigLoaderImpl:
    """What composes configs, from this package's folder, before it from the user's, and from ``further`` ones."""
    setup_globals()
    search_path = create_config_search_path(config_path or str(CONF))
    own = list(further)
    if config_dir is not None:
        folder = expanded(config_dir, "--config-dir")
        if not folder.is_dir():
            raise UserError(f"--config-dir={folder} is not a folder: check the path")
        own.append(f"file://{folder}")
    for source in own:
        search_path.prepend("command-line", source, SearchPathQuery(provider="schema"))  # as Hydra does
    return ConfigLoaderImpl(search_path)


def own_configs(hydra: HydraConf | DictConfig) -> list[str]:
    """Where the command says that further configs are, by ``--config-dir`` and ``hydra.searchpath``: ``schema://path`` each."""
    sources = [(each.schema, each.path) for each in hydra.runtime.config_sources if "command-line" in each.provider]
    return [f"{schema}://{Path(hydra.runtime.cwd, path) if schema == 'file' else path}" for schema, path in sources]


def own_configs_of(words: Sequence[str]) -> list[str]:
    """The same of a command that Hydra does not run, as one with ``resume=``."""
    args = parsed(words)
    return own_configs(load(args, [word for word in args.overrides if word.lstrip("+").startswith("hydra.searchpath=")]).hydra)


def protocol_nodes(names: Sequence[str], configs: Sequence[str] = ()) -> dict[str, Any]:
    """The files of protocols, of this package or of the command's ``own_configs``, by their names.

    Raises:
        UserError: there is no such protocol.
    """
    found: dict[str, Any] = {}
    files = loader(further=configs)
    choices = [name for name in files.get_group_options("protocol") if re.fullmatch(r"[\w-]+", name)]
    for name in names:
        if name not in choices:
            own = "" if configs else "; one of yours needs the --config-dir of its folder"
            raise UserError(f"evaluate names {name!r}, and there is no such protocol: choose {', '.join(choices)}{own}")
        node = files.load_configuration(f"protocol/{name}", [], RunMode.RUN).protocol
        found |= cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    return found


def check_start(words: Sequence[str]) -> tuple[bool, Path | None]:
    """Check a command before Hydra makes a folder.

    Returns:
        Whether it starts a multirun, and the folder of a single run, if its name holds no moment and no chance.

    Raises:
        UserError: a multirun under torchrun or without its data, or a folder that the user names and that already holds a run:
            Hydra would write its config over the old.
    """
    if only_prints(words):
        return False, None
    args = parsed(words)
    try:
        cfg = load(args, args.overrides)
    except HydraException:  # without the swept words it need not compose; Hydra itself will say what is wrong
        cfg = load(args, [word for word in args.overrides if word.startswith(("hydra", "experiment="))])
        OmegaConf.update(cfg, "data", None, merge=False)
    warn_of_hidden(args.config_dir)
    hydra = cfg.hydra
    multirun = is_multirun(words) or hydra.mode == RunMode.MULTIRUN
    if multirun and under_torchrun():
        raise UserError("a multirun starts its own jobs, while torchrun's processes share one run: leave torchrun out")
    if multirun and cfg.data is not None:
        _check_data(cfg, args.overrides)
    if multirun and "n_trials" in hydra.sweeper:
        return True, None  # a study goes on in the folders where its trials began
    folder = Path(hydra.sweep.dir if multirun else hydra.run.dir)
    refuse_used(folder, "*/" if multirun else "")
    fixed = not re.search(r"\$\{(now|cvae\.nonce)", str(OmegaConf.to_container(hydra.run, resolve=False)))
    return multirun, folder if fixed and not multirun else None


def refuse_used(folder: Path, below: str = "") -> None:
    """Raise UserError if there is a run in a folder, or ``below`` it: Hydra would write its config over the old."""
    for name in ("run.json", "checkpoints/last.pt"):
        if used := min(folder.glob(f"{below}{name}"), default=None):
            used = used.parents[name.count("/")]
            raise UserError(f"{used} already holds a run: choose another folder, or go on with {resume_command(used)}")


def _check_data(cfg: DictConfig, overrides: list[str]) -> None:
    """Raise UserError if no job of a multirun can find its data: every one of them would fail."""
    from cvae.data.contract import Dataset

    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    params = cfg.hydra.sweeper.get("params")
    swept += map(str, params) if isinstance(params, DictConfig) else []  # the sweeper refuses anything else
    chosen_by_jobs = swept and "${" in str(OmegaConf.to_container(cfg.data))
    on_other_hosts = "submitit" in str(cfg.hydra.launcher.get("_target_"))  # which may see other folders
    if not (chosen_by_jobs or on_other_hosts or any(key.split(".")[0] == "data" for key in swept)):
        build(cfg.data, cfg.allow_targets, Dataset).check()


def resume_command(folder: Path, allow_targets: Sequence[str] = (), configs: Sequence[str] = ()) -> str:
    """The command that goes on with a run, as it can be pasted, with the ``own_configs`` of the one that began it."""
    allowed = [f"allow_targets=[{','.join(allow_targets)}]"] * bool(allow_targets)
    own = [f"hydra.searchpath=[{','.join(map(quoted, configs))}]"] * bool(configs)
    return shlex.join(["python", "-m", "cvae.train", f"resume={folder}", *allowed, *own])
