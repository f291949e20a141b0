"""What makes the trials of two sweeps comparable: what is searched, the settings that are not, and the data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from cvae.config import identity, is_place
from cvae.sweep.distributions import shown
from cvae.sweep.space import Space, path_of
from cvae.sweep.study import known_data

_REFERENCE = re.compile(r"\$\{([\w.@/]+)\}")


def read_identity(
    space: Space, settings: Mapping[str, Any], app: DictConfig, seeds: int, cases: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The space, and every setting that is not searched, unresolved and without paths."""
    kept = identity(app, resolve=False)
    for key in space.distributions:
        _drop(kept, path_of(key).split("."))
    what: dict[str, Any] = {
        "space": {key: shown(distribution) for key, distribution in space.distributions.items()},
        "settings": kept,
    }
    if space.conditions:
        what["conditions"] = {key: "=".join(condition) for key, condition in space.conditions.items()}
    if settings.get("custom_search_space"):
        what["custom_search_space"] = settings["custom_search_space"]
    if seeds > 1:
        what["seeds_per_trial"] = seeds
    if cases:
        what["cases"] = {
            name: [word for word in words if not is_place(word.partition("=")[0].lstrip("+"))] for name, words in cases.items()
        }
        what["order_of_cases"] = list(cases)  # a trial keeps the values of its finished jobs by their places
    return what


def _drop(tree: Any, path: Sequence[str]) -> None:
    for part in path[:-1]:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(path[-1], None)


# --- the data ---------------------------------------------------------------------------------------------------------


def searches_data(jobs: Sequence[DictConfig]) -> bool:
    """Whether jobs that together have every choice differ in what ``trial.data`` is made of."""
    block: Any = OmegaConf.to_container(jobs[0].trial, resolve=False) if isinstance(jobs[0].get("trial"), DictConfig) else {}
    text = block.get("data")
    keys = _REFERENCE.findall(text) if isinstance(text, str) else []
    first, *others = ([_plain(job, key) for key in keys] for job in jobs)
    return any(other != first for other in others)


def _plain(config: DictConfig, key: str) -> Any:
    for resolve in (True, False):
        with contextlib.suppress(OmegaConfBaseException):
            value = OmegaConf.select(config, key)
            return OmegaConf.to_container(value, resolve=resolve) if OmegaConf.is_config(value) else value
    return None


def read_data(job: DictConfig) -> str | None:
    """The fingerprint of the data, as the app declares it in ``trial.data``; None if it cannot be known here.

    It may take as long as packing them.
    """
    try:
        value = OmegaConf.select(job, "trial.data")
    except InterpolationResolutionError as error:
        if "UserError" in str(error):  # of a resolver of ours: the data are there and damaged
            raise
        return None  # it needs what only a job has
    return None if value is None else str(value)


# --- names ------------------------------------------------------------------------------------------------------------


def default_name(config: DictConfig, what: Mapping[str, Any], url_of: Any) -> str:
    """The name of a study that the user gave none: the experiment's or app's, and a hash of its identity.

    A study that began where its data were unknown, or under an earlier version, has a name without them: it is found if it
    is of these data.

    Args:
        url_of: from a name to the URL of its storage.
    """
    name = _name(config, what)
    without = _name(config, {key: value for key, value in what.items() if key != "data"})
    if name == without or known_data(url_of(name), name) is not None:
        return name
    known = known_data(url_of(without), without)
    return without if known in ("", what["data"]) else name


def _name(config: DictConfig, what: Mapping[str, Any]) -> str:
    title = config.hydra.runtime.choices.get("experiment") or config.hydra.job.name
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{str(title).replace('/', '-')}-{digest}"
