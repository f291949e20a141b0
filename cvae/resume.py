"""``resume=RUN``: the config that a run folder holds, as far as a folder may be trusted that may come from a stranger.

Whether and where anything is sent, and every place that is written to, come from the user's command and environment. A folder
says what its run computes, and which data it read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from cvae import damage, integrity
from cvae.cli import override_values
from cvae.config import PLACES, RunConfig, anchor, flat
from cvae.console import warn
from cvae.errors import UserError, expanded, require
from cvae.start import compose

_PLACES = ("data.root", "data.cache_dir", "data.workers", "data.resident")
_RESUMABLE = ("device", "precision", "compile", "logger", *_PLACES, "allow_targets")
_NO_SETTINGS = ("hydra.searchpath",)  # of a run: it says where options are found
_HYDRA = 1 << 20  # bytes of hydra.yaml that are read
_LOGGER = ("_target_", "project", "group", "name", "tags")  # what a folder may say of its view


def run_folder(words: Sequence[str]) -> Path:
    """RUN of ``resume=RUN``; UserError if it is not a run folder."""
    folder = expanded(override_values(words)["resume"].strip("'\""), "resume")
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder: it has no .hydra/config.yaml; runs are in multirun/single/")
    _refuse_links_out(folder)
    return folder


def _refuse_links_out(folder: Path) -> None:
    """A run writes into its own folder only, and a link in a stranger's folder may lead anywhere."""
    own = os.path.realpath(folder)
    for here, folders, files in os.walk(folder):
        for path in (Path(here, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(own):
                raise UserError(f"{path} leads out of its run folder: put there what it leads to, or remove it")
        folders[:] = [name for name in folders if name != "wandb"]  # it links to its own logs


def reopen(words: Sequence[str]) -> tuple[DictConfig, Path]:
    """The config and folder of ``resume=RUN``, with the overrides that a resumed run may take.

    With ``checkpoint=best`` the run goes back to best.pt. Call it as the folder's owner.

    Raises:
        UserError: RUN is not a run folder, or an override would change what the run computes, or something is damaged.
    """
    values, folder = override_values(words), run_folder(words)
    del values["resume"]
    checkpoint = values.pop("checkpoint", "last")
    require(checkpoint in ("last", "best"), "checkpoint", checkpoint, "choose last or best")
    for key in values:
        if not ({key, key.split(".")[0].split("@")[0]} & {*_RESUMABLE, *_NO_SETTINGS} or _is_place(key)):
            raise UserError(
                f"{key} cannot change in a resumed run: only {', '.join(_RESUMABLE[:-1])} can; start a new run to change it"
            )
    # What the data have besides is the recorded group's, which the fresh config need not choose.
    rest = [word for word in words if not re.match(r"\+*(resume|checkpoint)=", word)]
    fresh = compose([f"++{word.lstrip('+')}" if word.lstrip("+").startswith("data.") else word for word in rest])
    places = {key: OmegaConf.select(fresh, key) for key in values if _is_place(key)}
    cfg = recorded_config(folder, not {"logger", "logger.entity"} & values.keys(), places)
    for key in sorted(values.keys() - set(_NO_SETTINGS)):  # logger before logger.mode
        OmegaConf.update(cfg, key, OmegaConf.select(fresh, key), merge=False)
    # allow_targets is the user's word, given again; a run folder's own does not count.
    cfg.allow_targets = fresh.allow_targets
    if checkpoint == "best":
        damage.go_back(folder)
    return cfg, folder


def recorded_config(folder: Path, say_entity: bool = False, places: Mapping[str, Any] = MappingProxyType({})) -> DictConfig:
    """The config of a run folder without what it must not decide: see the module's text.

    Args:
        places: where the user says that its data lie now, by their keys.

    Raises:
        UserError: it is not a run folder, its config is damaged, or reads the environment for more than ``data.root``.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no .hydra/config.yaml; runs are in multirun/single/")
    damage.check_config(folder)
    try:
        recorded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert isinstance(recorded, dict)
        logger = recorded.get("logger") or {}
        recorded["logger"] = {key: logger[key] for key in _LOGGER if key in logger and not _calls_resolver(str(logger[key]))}
        recorded.pop("trial", None)  # of a sweep that is over, or not this process's
        _refuse_environment(recorded, path)
        if "cache_dir" in recorded.get("data", {}):
            recorded["data"]["cache_dir"] = None
        cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), recorded)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file leads YAML and OmegaConf to raise
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:160]}): restore it from a copy") from error
    assert isinstance(cfg, DictConfig)
    if (began := _began_in(folder)) is not None:
        anchor(cfg, began)
    for key, value in places.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    _refuse_new_place(cfg, path)
    if logger.get("entity") is not None and say_entity:
        warn(f"{path} sends to the W&B entity {logger['entity']}, which only a command can name: recording offline")
        OmegaConf.update(cfg, "logger.mode", "offline", force_add=True)
    return cfg


def _refuse_environment(recorded: Mapping[Any, Any], path: Path) -> None:
    """The environment holds secrets: a folder may read it to say where its data lie, and for nothing else."""
    for key, value in flat(recorded).items():
        text = str(value).replace("${oc.env:", "") if key == "data.root" else str(value)
        if _calls_resolver(text):
            raise UserError(f"{path}: {key}={value} calls a resolver, which a run folder may not: write the value itself there")


def _calls_resolver(text: str) -> bool:
    """Whether a value may call a resolver; ``${lr}``, which only refers to another key, does not."""
    return "${" in text and ":" in text


def _refuse_new_place(cfg: DictConfig, path: Path) -> None:
    """A folder's ``data.root`` is read; where it is not there, the synthetic world would be written to it."""
    root = OmegaConf.select(cfg, "data.root", throw_on_missing=False)
    if root is not None and not any(expanded(root, "data.root").glob("*")):
        raise UserError(f"{path} has data.root={root}, which is not there: bring the data back, or add data.root=FOLDER")


def _is_place(key: str) -> bool:
    """Whether a key says where data lie: those of a group of the user's own may have names of their own."""
    return key.startswith("data.") and key.rpartition(".")[2] in PLACES


def _began_in(folder: Path) -> Path | None:
    """The folder in which the user stood when a run began, if it still is there."""
    with contextlib.suppress(Exception):  # whatever a damaged file leads YAML to raise
        with integrity.opened(folder / ".hydra" / "hydra.yaml") as file:
            began = Path(yaml.safe_load(file.read(_HYDRA))["hydra"]["runtime"]["cwd"])
        return began if began.is_absolute() and began.is_dir() else None
    return None
