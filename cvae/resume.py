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
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from cvae import damage, files, run_record
from cvae.cli import override_values
from cvae.config import RunConfig, anchor, flat, is_place
from cvae.console import warn
from cvae.errors import UserError, expanded, require
from cvae.start import compose
from cvae.strangers import forget_caches, read_settings, refuse_links, refuse_new_root, refuse_resolvers

_PLACES = ("data.root", "data.cache_dir", "data.workers", "data.resident")
_RESUMABLE = ("device", "precision", "compile", "logger", *_PLACES, "evaluate", "allow_targets")
_NO_SETTINGS = ("hydra.searchpath",)  # of a run: it says where options are found
_HYDRA = 1 << 20  # bytes of hydra.yaml that are read
_LOGGER = ("_target_", "project", "group", "name", "tags")  # what a folder may say of a view


def run_folder(words: Sequence[str]) -> Path:
    """RUN of ``resume=RUN``; UserError if it is not a run folder, or has what must not be written to."""
    folder = expanded(override_values(words)["resume"].strip("'\""), "resume")
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder: it has no .hydra/config.yaml; runs are in multirun/single/")
    refuse_links(folder)
    return folder


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
    if deleted := [word for word in words if word.startswith("~")]:
        raise UserError(f"{deleted[0]}: a resumed run keeps its settings; start a new run to change them")
    for key in values:
        if not ({key, key.split(".")[0].split("@")[0]} & {*_RESUMABLE, *_NO_SETTINGS} or is_place(key)):
            raise UserError(
                f"{key} cannot change in a resumed run: only {', '.join(_RESUMABLE[:-1])} can; start a new run to change it"
            )
    # What the data have besides is the recorded group's, which the fresh config need not choose.
    rest = [word for word in words if not re.match(r"\+*(resume|checkpoint)=", word)]
    fresh = compose([f"++{word.lstrip('+')}" if word.lstrip("+").startswith("data.") else word for word in rest])
    cfg = recorded_config(folder, {key: OmegaConf.select(fresh, key) for key in values if is_place(key)})
    for key in sorted(values.keys() - set(_NO_SETTINGS)):  # logger before logger.mode
        OmegaConf.update(cfg, key, OmegaConf.select(fresh, key), merge=False)
    # allow_targets is the user's word, given again; a run folder's own does not count.
    cfg.allow_targets = fresh.allow_targets
    if "logger.project" not in values:
        _stay_in_project(cfg, folder)
    if "logger" not in values and not any(re.fullmatch(r"logger\.(\w+\.)?entity", key) for key in values):
        _send_to_no_stranger(cfg, folder)
    if checkpoint == "best":
        damage.go_back(folder)
    return cfg, folder


def _send_to_no_stranger(cfg: DictConfig, folder: Path) -> None:
    """Record offline where the run was sent to an entity that is not the user's default: only a command can name it."""
    recorded = flat(read_settings(folder, ".hydra/config.yaml").get("logger") or {})
    entities = [value for key, value in recorded.items() if key.rpartition(".")[2] == "entity" and value is not None]
    entity = next((each for each in entities if each != os.environ.get("WANDB_ENTITY")), None)
    if entity is None or "WandbMirror" not in str(OmegaConf.to_container(cfg.logger, resolve=False)):
        return
    path = folder / ".hydra" / "config.yaml"
    warn(f"{path} sends to the W&B entity {entity}, which only a command can name (logger.entity=...): recording offline")
    if os.environ.get("WANDB_MODE") != "disabled":
        OmegaConf.update(cfg, "logger.mode", "offline", force_add=True)


def _stay_in_project(cfg: DictConfig, folder: Path) -> None:
    """Forget the recorded project where run.json notes another, in which the run was shown last; the mirror asks run.json."""
    noted = (run_record.read_record(folder) or {}).get("wandb")
    if isinstance(noted, dict) and isinstance(noted.get("project"), str) and "project" in cfg.logger:
        cfg.logger.project = None


def recorded_config(folder: Path, places: Mapping[str, Any] = MappingProxyType({}), *, data: bool = True) -> DictConfig:
    """The config of a run folder without what it must not decide: see the module's text.

    Args:
        places: where the user says that its data lie now, by their keys.
        data: whether its data are needed; without them ``data.root`` is null, wherever they lay.

    Raises:
        UserError: it is not a run folder, its config is damaged, or reads the environment for more than ``data.root``.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no .hydra/config.yaml; runs are in multirun/single/")
    run_record.check_config(folder)
    try:
        recorded = read_settings(folder, ".hydra/config.yaml")
        if not isinstance(recorded, dict):
            raise TypeError("it holds no settings")
        recorded["logger"] = _views(recorded.get("logger") or {})
        recorded.pop("trial", None)  # of a sweep that is over, or not this process's
        forget_caches(recorded)
        refuse_resolvers(recorded, str(path), given=places)
        if not data and isinstance(recorded.get("data"), dict):
            recorded["data"]["root"] = None
        cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), recorded)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file leads YAML and OmegaConf to raise
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:160]}): restore it from a copy") from error
    assert isinstance(cfg, DictConfig)
    _refuse_copies_of_root(cfg, path)
    if (began := _began_in(folder)) is not None:
        anchor(cfg, began)
    for key, value in places.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    if "data.root" not in places:
        written = OmegaConf.to_container(cfg.data, resolve=False) if OmegaConf.is_dict(cfg.data) else {}
        root = OmegaConf.select(cfg, "data.root", throw_on_missing=False)
        refuse_new_root(root, str(path), written.get("root") if isinstance(written, dict) else None)
    return cfg


def _views(logger: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder may say of its views, of each or of all: class, project, group, name and tags, in plain text."""
    said = {key: logger[key] for key in _LOGGER if key in logger and _plain(logger[key])}
    each = {
        name: node
        for name, node in logger.items()
        if re.fullmatch(r"\w+", str(name)) and isinstance(node, Mapping) and "_target_" in node
    }
    return {**said, **{name: _views({key: node[key] for key in _LOGGER if key in node}) for name, node in each.items()}}


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


def _began_in(folder: Path) -> Path | None:
    """The folder in which the user stood when a run began, if it still is there."""
    with contextlib.suppress(OSError, files.Unreadable, KeyError, TypeError):
        began = Path(files.read_yaml(folder, ".hydra/hydra.yaml", _HYDRA)["hydra"]["runtime"]["cwd"])
        return began if began.is_absolute() and began.is_dir() else None
    return None
