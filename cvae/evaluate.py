"""``python -m cvae.evaluate run=RUN [protocol=course]``: score runs under named protocols, into RUN/eval/."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

from cvae import cli, config
from cvae.console import say, short, warn
from cvae.errors import UserError, require

if TYPE_CHECKING:
    from cvae.evaluation.protocol import Protocol
    from cvae.protocols.tools import Settings, Tools


@dataclass
class EvaluateConfig:
    """The settings of an evaluation; ``python -m cvae.evaluate --help`` explains them."""

    run: Any = MISSING
    protocol: dict[str, Any] = field(default_factory=dict)
    split: str = "test"
    checkpoint: str = "best"
    seed: int = 1
    frames: int = 4096
    precision: str = "fp32"
    device: str = "auto"
    bair: bool = False
    lpips: dict[str, Any] = field(default_factory=lambda: {"weights": None, "net": "alex"})
    fvd: dict[str, Any] = field(default_factory=lambda: {"weights": None})
    data: dict[str, Any] = field(default_factory=lambda: {"root": None, "cache_dir": None, "workers": None})
    allow_targets: list[str] = field(default_factory=list)


ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


def evaluate(cfg: DictConfig) -> None:
    """Evaluate all runs under all protocols, and say how runs differ.

    Raises:
        UserError: a setting is bad, there are no such runs, or none could be evaluated.
    """
    # Imported here so that --help needs none of it.
    from cvae.evaluation.protocol import protocols
    from cvae.protocols.compare import compare
    from cvae.protocols.tools import Tools
    from cvae.runs.collection import run_folders

    wanted = protocols(OmegaConf.to_container(cfg.protocol, resolve=True))  # type: ignore[arg-type]  # a mapping
    tools = Tools(_settings(cfg))
    given = cfg.run if OmegaConf.is_list(cfg.run) else [cfg.run]
    folders = run_folders([str(place) for place in given if place not in (None, "")])
    alone = len(folders) == len(wanted) == 1
    results: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for folder in folders:
        for found in _of_run(folder, wanted, tools):
            if not isinstance(found, UserError):
                results.setdefault(found["protocol"]["name"], []).append((folder, found))
            elif alone:
                raise found
            else:
                warn(f"{short(folder)}: {found}")  # the others go on
    for several in results.values():
        for line in compare(several) if len(several) > 1 else ():
            say(line)
    if not results:
        raise UserError(f"nothing could be evaluated of {len(folders)} runs under {len(wanted)} protocols: see the lines above")


def _of_run(folder: Path, wanted: Sequence[Protocol], tools: Tools) -> Iterator[dict[str, Any] | UserError]:
    """The results of a run, and the errors of protocols that it cannot follow, or its own."""
    from cvae.protocols.running import evaluate

    try:
        yield from evaluate(folder, wanted, tools)
    except UserError as error:
        yield error


def _settings(cfg: DictConfig) -> Settings:
    from cvae.protocols.tools import Settings

    for key in map(str, cfg):
        if key not in EvaluateConfig.__dataclass_fields__:
            raise UserError(f"+{key}: an evaluation has no such key; --help lists them")
    for group, known in (("lpips", ("weights", "net")), ("fvd", ("weights",))):
        for key in map(str, cfg[group]):
            require(key in known, f"{group}.{key}", cfg[group][key], f"choose {', '.join(known)}")
    names = ("split", "checkpoint", "seed", "frames", "device", "precision", "bair")
    return Settings(
        **{name: cfg[name] for name in names},
        lpips_weights=_path(cfg.lpips.weights),
        lpips_net=str(cfg.lpips.net),
        fvd_weights=_path(cfg.fvd.weights),
        changed=_changes(),
        places=config.places(cfg.data, alone=True),
        allow_targets=list(cfg.allow_targets),
    )


def _changes() -> list[str]:
    """What of the command makes numbers those of another protocol, such as ``protocol.course.samples=10``, key by key."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    parsed = OverridesParser.create().parse_overrides(list(words))
    leaves = [leaf for each in parsed for leaf in _leaves(each.get_key_element().lstrip("+~"), each.value())]
    return [leaf for leaf in leaves if re.match(r"protocol\.\w[\w-]*\.(?!metrics\b)", leaf)]


def _leaves(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(f"{key}.{name}", each)
    else:
        yield key if value is None else f"{key}={value}"


def _path(value: Any) -> str | None:
    return None if value is None else str(value)


main = cli.main_of(
    evaluate, "evaluate", "an evaluation cannot be swept: leave out -m, and give run=[A,B] or protocol=[course,srvp]"
)


if __name__ == "__main__":
    main()
