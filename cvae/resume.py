"""``resume=RUN``: the config that a run folder holds, as far as a folder may be trusted that may come from a stranger.

Whether and where anything is sent, and every place that is written to, come from the user's command and environment. A folder
says what its run computes, and which data it read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from cvae.cli import override_values
from cvae.config import RunConfig, flat
from cvae.console import warn
from cvae.errors import UserError, expanded
from cvae.start import compose
from cvae.strangers import forget_caches, read_settings, refuse_links, refuse_new_root, refuse_resolvers

_RESUMABLE = ("device", "precision", "compile", "logger", "data.resident", "allow_targets")
_NO_SETTINGS = ("hydra.searchpath",)  # of a run: it says where options are found
_LOGGER = ("_target_", "project", "group", "name", "tags")  # what a folder may say of its view


def reopen(words: Sequence[str]) -> tuple[DictConfig, Path]:
    """The config and folder of ``resume=RUN``, with the overrides that a resumed run may take.

    Raises:
        UserError: RUN is not a run folder, or an override would change what the run computes.
    """
    values = override_values(words)
    folder = expanded(values.pop("resume"), "resume")
    for key in values:
        if not {key, key.split(".")[0].split("@")[0]} & {*_RESUMABLE, *_NO_SETTINGS}:
            raise UserError(
                f"{key} cannot change in a resumed run: only {', '.join(_RESUMABLE[:-1])} can; start a new run to change it"
            )
    cfg = recorded_config(folder, values)
    refuse_links(folder)
    fresh = compose([word for word in words if not word.lstrip("+").startswith("resume=")])
    for key in sorted(values.keys() - set(_NO_SETTINGS)):  # logger before logger.mode
        OmegaConf.update(cfg, key, OmegaConf.select(fresh, key), merge=False)
    # allow_targets is the user's word, given again; a run folder's own does not count.
    cfg.allow_targets = fresh.allow_targets
    if not {"logger", "logger.entity"} & values.keys():
        _send_to_no_stranger(cfg, folder)
    return cfg, folder


def _send_to_no_stranger(cfg: DictConfig, folder: Path) -> None:
    """Record offline where the run was sent to an entity that is not the user's default: only a command can name it."""
    path = folder / ".hydra" / "config.yaml"
    entity = (read_settings(path).get("logger") or {}).get("entity")
    if entity in (None, os.environ.get("WANDB_ENTITY")) or "WandbMirror" not in str(cfg.logger.get("_target_")):
        return
    warn(f"{path} sends to the W&B entity {entity}, which only a command can name (logger.entity=...): recording offline")
    if os.environ.get("WANDB_MODE") != "disabled":
        OmegaConf.update(cfg, "logger.mode", "offline", force_add=True)


def recorded_config(folder: Path, given: Collection[str] = ()) -> DictConfig:
    """The config of a run folder without what it must not decide: see the module's text.

    Args:
        given: keys that the command sets itself.

    Raises:
        UserError: it is not a run folder, its config is damaged, or reads the environment for more than ``data.root``.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no .hydra/config.yaml; runs are in multirun/single/")
    try:
        recorded = read_settings(path)
        if not isinstance(recorded, dict):
            raise TypeError("it holds no settings")
        logger = recorded.get("logger") or {}
        recorded["logger"] = {key: logger[key] for key in _LOGGER if key in logger and _plain(logger[key])}
        recorded.pop("trial", None)  # of a sweep that is over, or not this process's
        refuse_resolvers(recorded, str(path))
        forget_caches(recorded)
        cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), recorded)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file leads YAML and OmegaConf to raise
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:160]}): restore it from a copy") from error
    assert isinstance(cfg, DictConfig)
    if "data.root" not in given:
        refuse_new_root(OmegaConf.select(cfg, "data.root", throw_on_missing=False), str(path))
    _refuse_copies_of_root(cfg, path)
    return cfg


def _plain(value: object) -> bool:
    """Whether it is text, or a list of texts, without any interpolation."""
    texts = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(text, str) and "${" not in text for text in texts)


def _refuse_copies_of_root(cfg: DictConfig, path: Path) -> None:
    """A root that reads the environment is for reading the data: no other value may repeat it, to be shown or sent."""
    written = flat(cast(dict[Any, Any], OmegaConf.to_container(cfg, resolve=False)))
    if "${" not in str(written.get("data.root")):
        return
    resolved = flat(cast(dict[Any, Any], OmegaConf.to_container(cfg, resolve=True)))
    root = str(resolved.pop("data.root"))
    for key, value in resolved.items():
        if root in str(value) and value != written.get(key):
            raise UserError(f"{path}: {key} repeats data.root, which reads the environment: write the value itself there")
