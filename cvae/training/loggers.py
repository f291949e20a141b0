"""From ``logger=wandb``, ``logger=[wandb,tensorboard]`` or a logger of the user's own to what shows a run."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from cvae.config import arguments, build
from cvae.errors import UserError
from cvae.training.recorder import Mirror, Mirrors


def build_mirror(cfg: DictConfig) -> Mirror:
    """The mirrors of a run.

    Below ``logger`` each chosen option has a node of its own with a ``_target_``. The plain keys beside them are shared: a
    mirror gets those that it takes, and its own count more. A ``_target_`` of ``logger`` itself is one more mirror.

    Raises:
        UserError: one cannot be built, or none takes a key that is given.
    """
    own: Any = OmegaConf.to_container(cfg.logger, resolve=False) if isinstance(cfg.logger, DictConfig) else {}
    options = {key: value for key, value in own.items() if isinstance(value, dict) and "_target_" in value}
    if not options:
        return _built(cfg, "logger")
    shared = {key: value for key, value in own.items() if key not in options}
    nodes = {f"logger.{name}": node for name, node in options.items()}
    if "_target_" in shared:
        nodes["logger"] = {"_target_": shared.pop("_target_")}
    taken = {key: arguments(OmegaConf.select(cfg, key), cfg.allow_targets) for key in nodes}
    for key in shared:
        if not any(key in each for each in taken.values()):
            known = ", ".join(sorted(set().union(*taken.values()))) or "nothing"
            raise UserError(f"logger.{key}: {' and '.join(options)} take no such key, but {known}: ~logger.{key} drops it")
    mirrors = []
    for key, node in nodes.items():
        whole: Any = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
        given = {name: value for name, value in shared.items() if name in taken[key]}
        OmegaConf.update(whole, key, {**given, **node}, merge=False)
        mirrors.append(_built(whole, key))
    return mirrors[0] if len(mirrors) == 1 else Mirrors(mirrors)


def _built(cfg: DictConfig, key: str) -> Mirror:
    mirror: Mirror = build(OmegaConf.select(cfg, key), cfg.allow_targets, Mirror)
    return mirror
