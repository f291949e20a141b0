"""The typed root of the configuration, the one door through which configs become objects, and a run's signature."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from cvae.arguments import parameters_of, refuse_hydras, refuse_taken, refuse_unfit, refuse_unknown
from cvae.errors import PARTS, BadArgument, UserError

CONF = Path(__file__).with_name("conf")


@dataclass
class RunConfig:
    """The dials of a run. Groups are untyped here: their components check their own arguments."""

    data: Any = MISSING
    model: Any = MISSING
    prior: Any = MISSING
    likelihood: Any = MISSING
    kl_schedule: Any = MISSING
    tf_schedule: Any = MISSING
    optim: Any = MISSING
    logger: Any = MISSING

    lr: float = MISSING
    tfr: float = 1.0
    beta: float | None = None
    epochs: int = MISSING
    epoch_size: int = MISSING
    batch_size: int = 12
    seed: int = 1
    n_past: int = 2
    n_future: int = 10
    n_eval: int = 30
    n_samples: int = 1
    objective: Any = "val/psnr"
    metrics: dict[str, Any] = field(default_factory=dict)

    coin: str = "per_step"
    schedule_step: str = "iteration"
    free_bits: float = 0.0
    kl_balance: float | None = None
    sigma_scale: float = 6.0
    grad_clip: float | None = None
    average: float = 0.0
    window_growth: float = 0.0
    lr_warmup: float = 0.0
    lr_decay: str = "none"
    lr_rewarm: float = 0.0
    validate_every: int = 1
    validate_at: list[str] = field(default_factory=list)
    sample_every: int = 5

    device: str = "auto"
    precision: str = "auto"
    compile: str = "auto"
    resume: str | None = None
    show: str | None = None
    evaluate: list[str] = field(default_factory=list)
    allow_targets: list[str] = field(default_factory=list)
    trial: Any = None


# --- config -> object -------------------------------------------------------------------------------------------------

# What may be built where: the packages of each slot, by the last part of its key. A node below a slot that is none itself (a
# sampler's crossover, say) may be built of the same as the slot.
_SLOTS = {
    "data": "cvae.data",
    "model": "cvae.model.cvae",
    "backbone": "cvae.model.backbones",
    "prior": "cvae.model.recurrent",
    "likelihood": "cvae.model.objective",
    "kl_schedule": "cvae.schedules",
    "tf_schedule": "cvae.schedules",
    "optim": "torch.optim",
    "logger": "cvae.training",
    "sampler": "optuna.samplers",
    "pruner": "optuna.pruners",
}


def build(node: DictConfig, allow_targets: Sequence[str] = (), kind: Any = object, **kwargs: Any) -> Any:
    """Instantiate a config node: the only place where a ``_target_`` becomes an object.

    A run folder may come from a stranger, so every nested target is resolved first and must be a class, or a function named
    in its module's ``__all__``, that is defined in what its slot may be built of (``_SLOTS``) or in a package in
    ``allow_targets``. Testing the name's prefix alone would not do: ``torch.optim.optimizer.torch.load`` resolves too.
    Within cvae a class must be named in ``__all__`` as well, which stands only in modules that offer components, and names
    nothing that writes where it is told. What comes out must be of ``kind``.

    Args:
        node: a config with a ``_target_``; its key in the whole config says which slot it is.
        allow_targets: the user's own packages. They come from the user's command, never from a run folder.
        kind: the class that the caller needs, or a protocol, whose members it must have.
        kwargs: arguments that stand in no config.

    Raises:
        UserError: a target is not allowed or cannot be imported, the component refuses its arguments, or is of another kind.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"{node!r} stands where a {kind.__name__} is needed: give it a _target_; --cfg job shows the keys")
    key = node._get_full_key(None)
    plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    components = list(_checked_targets(plain, key, _slot(key), tuple(allow_targets)))
    refuse_taken(node, key, kwargs)
    try:
        found = instantiate(plain, _convert_="all", **kwargs)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, BadArgument):
            own = next((name for _, name, target in components if target is cause.kind), key)
            raise UserError(f"{own}.{cause.said}") from None
        if isinstance(cause, UserError):
            raise cause from None
        for component in components:
            refuse_unfit(*component)
        reason = " ".join(str(cause).replace(".__init__()", "").replace("__init__() ", "").split()) or type(cause).__name__
        hint = "check the path and the space that is left" if isinstance(cause, OSError) else "--cfg job shows its keys"
        raise UserError(f"{key}: {reason}; {hint}") from error
    for component in components:  # it may have taken what it cannot work with
        refuse_unfit(*component)
    if lacking := _lacking(found, kind):
        raise UserError(f"{key}: {node._target_} makes a {type(found).__name__}, which {lacking}: a {kind.__name__} is needed")
    return found


def arguments(node: DictConfig, allow_targets: Sequence[str] = ()) -> list[str]:
    """The names of what a component takes; of one that does not tell, none.

    Raises:
        UserError: its target is not allowed or cannot be imported.
    """
    key = node._get_full_key(None)
    return list(parameters_of(_checked(node.get("_target_"), key, (*_slot(key), *allow_targets))) or ())


def _slot(key: str) -> tuple[str, ...]:
    """What may be built at a key: that of the last of its parts that is a slot."""
    return next(((_SLOTS[part],) for part in reversed(key.split(".")) if part in _SLOTS), ())


def _lacking(found: object, kind: Any) -> str:
    """What an object lacks to be of a kind; nothing if it is. Properties are not called: they may open data."""
    if not getattr(kind, "_is_protocol", False):
        return "" if isinstance(found, kind) else f"is no {kind.__name__}"
    members = [name for name, value in vars(kind).items() if inspect.isfunction(value) or isinstance(value, property)]
    wanted = [name for name in (*members, *kind.__annotations__) if not name.startswith("_") or name == "__call__"]
    dynamic = hasattr(type(found), "__getattr__")
    there = {name: inspect.getattr_static(found, name, None) for name in wanted}
    missing = [name for name in wanted if there[name] is None and not (dynamic and getattr(found, name, None) is not None)]
    called = {name: there[name] for name in wanted if inspect.isfunction(vars(kind).get(name)) and there[name] is not None}
    missing += [f"{name} to call" for name, own in called.items() if not (callable(own) or hasattr(type(own), "__get__"))]
    return f"has no {', '.join(missing)}" if missing else ""


def _checked_targets(
    value: object, key: str, slot: tuple[str, ...], allowed: tuple[str, ...]
) -> Iterator[tuple[dict[Any, Any], str, Callable[..., Any]]]:
    """The components of a resolved config value, as node, key and target; a target that its slot does not allow is refused."""
    if isinstance(value, dict):
        name = key.rpartition(".")[2]
        slot = (_SLOTS[name],) if name in _SLOTS else slot
        refuse_hydras(value, key)
        if "_target_" in value:
            target = _checked(value["_target_"], key, (*slot, *allowed))
            refuse_unknown(value, key, target)
            yield value, key, target
        for name, below in value.items():
            yield from _checked_targets(below, f"{key}.{name}", slot, allowed)
    elif isinstance(value, list):
        for below in value:
            yield from _checked_targets(below, key, slot, allowed)
    elif isinstance(value, str) and "${" in value:
        # An escaped interpolation would be resolved once more inside instantiate, behind this check.
        raise UserError(f"{key} holds an escaped interpolation ({value[:60]!r}): write the value itself")


def _checked(target: object, key: str, allowed: Sequence[str]) -> Callable[..., Any]:
    """The class or function of a target that is allowed."""

    def under(name: str) -> bool:
        return any(name == root or name.startswith(root + ".") for root in allowed)

    refused = (
        f"{key}._target_ is {target!r}, which is not allowed: a class or public function of "
        f"{' or '.join(allowed) or 'yours'} is needed; for a package of your own add allow_targets=[package] to the command"
    )
    if not isinstance(target, str) or not under(target):
        raise UserError(refused)
    found = _located(target, key)
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not under(found.__module__):
        raise UserError(refused)
    public = found.__name__ in getattr(importlib.import_module(found.__module__), "__all__", ())
    if inspect.isclass(found) and not public and found.__module__.startswith("cvae."):
        raise UserError(refused)
    if inspect.isfunction(found) and not public:
        raise UserError(f"{refused}; a function is public if {found.__module__}.__all__ names it")
    PARTS.update(root for root in allowed if f"{found.__module__}.".startswith(f"{root}.") and root.split(".")[0] != "cvae")
    return found


def _located(target: str, key: str) -> Any:
    """What a target names, imported."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
                continue
            raise UserError(f"{key}._target_={target} cannot be imported: {error}") from error
        except Exception as error:  # whatever a user's module raises
            raise UserError(f"{key}._target_={target} cannot be imported ({type(error).__name__}: {error})") from error
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if found is not None:
            return found
        break
    raise UserError(
        f"{key}._target_={target} does not exist: check the spelling, and that PYTHONPATH or the working folder has its package"
    )


# --- identity ---------------------------------------------------------------------------------------------------------

_NO_IDENTITY = ("trial", "logger", "device", "resume", "show", "evaluate", "allow_targets")
_PLACES = ("root", "cache_dir", "workers", "resident")
PLACES = (*_PLACES, "path", "folder", "dir")  # names of what may change in a resumed run: the data's content may not
# Keys that came after 0.1.0, with their defaults: a run that lacks one, and a run that has the default, are the same.
_ADDED: dict[str, Any] = {"metrics": {}, "data.world": 1, "average": 0.0, "window_growth": 0.0}
_ADDED |= {"sigma_scale": 6.0, "validate_at": [], "lr_rewarm": 0.0}


def signature(cfg: DictConfig) -> str:
    """A hash of what a run computes: its config without trial, paths, logger and device. Equal settings, equal signature."""
    return hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:16]


def identity(cfg: DictConfig | Mapping[str, Any], resolve: bool = True) -> dict[str, Any]:
    """The settings that decide what a run computes. Plain values are taken as they stand."""
    plain = OmegaConf.to_container(cfg, resolve=resolve) if isinstance(cfg, DictConfig) else cfg
    assert isinstance(plain, Mapping)
    settings = {str(key): value for key, value in plain.items() if key not in _NO_IDENTITY}
    if isinstance(settings.get("data"), dict):
        settings["data"] = {key: value for key, value in settings["data"].items() if key not in _PLACES}
    for key, default in _ADDED.items():
        group, _, name = key.rpartition(".")
        inside = settings.get(group) if group else settings
        if isinstance(inside, dict) and inside.get(name) == default:
            left = {other: value for other, value in inside.items() if other != name}
            settings = {**settings, group: left} if group else left
    return settings


def anchor(cfg: DictConfig, where: Path) -> None:
    """Let the data's relative places count from ``where``."""
    data = OmegaConf.to_container(cfg.data, resolve=False)
    for key in flat(data) if isinstance(data, Mapping) else ():
        if key.rpartition(".")[2] in ("root", "cache_dir"):
            place = OmegaConf.select(cfg.data, key, throw_on_missing=False)
            if isinstance(place, str) and not place.startswith("~"):
                OmegaConf.update(cfg.data, key, str(where / place))


def flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their full keys, as ``model.width``; an empty mapping counts as a value."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return values


def is_place(key: str) -> bool:
    """Whether a full key says where data lie: those of a group of the user's own may have names of their own."""
    return key.startswith("data.") and key.rpartition(".")[2] in PLACES


def places(data: DictConfig, alone: bool = False) -> dict[str, Any]:
    """Where the group ``data`` says that the data lie, by full keys. UserError if it may say that ``alone``, and says more."""
    values = flat(OmegaConf.to_container(data), "data.")  # type: ignore[arg-type]
    for key in (key for key in values if alone and not is_place(key)):
        raise UserError(f"{key} is {values[key]!r}: only the place of the data can be given")
    return {key: value for key, value in values.items() if is_place(key) and value is not None}
