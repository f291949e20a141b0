"""What Hydra is told of cvae's configs: their schema, and the resolvers of values that follow from others."""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cvae.config import RunConfig, build
from cvae.console import only_prints
from cvae.errors import UserError
from cvae.metrics import directions


def register() -> None:
    """Tell Hydra of the schema and of four resolvers; ``hydra_plugins.cvae_schema`` does so at every start of Hydra.

    ``${cvae.nonce:}`` is the random end of a run folder's name; ``${cvae.settled:EPOCHS,KL,TF,ALLOW_TARGETS}`` is the number of
    epochs after which two schedules have settled (``cvae.run_schedules.settled``); ``${cvae.direction:OBJECTIVE,METRICS}`` says
    whether objectives are maximised or minimised (``cvae.metrics.directions``); ``${cvae.fingerprint:DATA,ALLOW_TARGETS}`` is
    the fingerprint of the data of a multirun, where they are visible.
    """
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="cvae_schema", node=RunConfig, provider="cvae")
    # Cached like Hydra's own ${now:}, so that one start has one name however often it is resolved.
    OmegaConf.register_new_resolver("cvae.nonce", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("cvae.settled", _settled, replace=True)
    OmegaConf.register_new_resolver("cvae.direction", directions, replace=True)
    OmegaConf.register_new_resolver("cvae.fingerprint", _fingerprint, replace=True)


def _settled(epochs: int, kl_schedule: DictConfig, tf_schedule: DictConfig, allow_targets: Sequence[str] = ()) -> int:
    from cvae.run_schedules import settled
    from cvae.schedules import Schedule, checked

    nodes = {"kl_schedule": kl_schedule, "tf_schedule": tf_schedule}
    kl, forcing = (checked(key, build(node, allow_targets, Schedule)) for key, node in nodes.items())
    return math.ceil(epochs * settled(kl, forcing))


def _fingerprint(data: Any, allow_targets: Sequence[str] = (), *, _root_: DictConfig) -> str | None:
    """The content fingerprint of the data; None where they are not there, and where no multirun asks.

    It may pack them. So a config that is only composed (in a notebook, say), printed or run once has null here; a run sets it
    when it has opened its data.
    """
    mode = OmegaConf.select(_root_, "hydra.mode")
    if only_prints(sys.argv[1:]) or getattr(mode, "name", mode) != "MULTIRUN" or not isinstance(data, DictConfig):
        return None
    if OmegaConf.missing_keys(data):
        return None
    from cvae.data.contract import Dataset

    dataset = build(data, allow_targets, Dataset)
    try:
        dataset.check()
    except UserError:
        return None
    return str(dataset.fingerprint)
