"""``python -m cvae.evaluate run=RUN [protocol=course]``: score runs under named protocols, into RUN/eval/."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from cvae import cli, config
from cvae.console import say
from cvae.errors import UserError, require


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
    from cvae.protocols.running import evaluate, tell
    from cvae.protocols.tools import Tools
    from cvae.runs.collection import run_folders

    wanted = protocols(OmegaConf.to_container(cfg.protocol, resolve=True))  # type: ignore[arg-type]  # a mapping
    tools = Tools(_settings(cfg))
    given = cfg.run if OmegaConf.is_list(cfg.run) else [cfg.run]
    folders = run_folders([str(place) for place in given if place not in (None, "")])
    results: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    failed: list[tuple[Path, UserError]] = []
    for folder in folders:
        try:
            for found in evaluate(folder, wanted, tools):
                if isinstance(found, UserError):
                    failed.append((folder, found))
                else:
                    results.setdefault(found["protocol"]["name"], []).append((folder, found))
        except UserError as error:
            failed.append((folder, error))
        if failed and not (len(folders) == len(wanted) == 1) and failed[-1][0] == folder:
            for _, error in (each for each in failed if each[0] == folder):
                tell(error, folder)
    for several in results.values():
        for line in compare(several) if len(several) > 1 else ():
            say(line)
    if failed and not results:
        raise failed[0][1] if len(failed) == 1 else UserError(f"none of {len(folders)} runs could be evaluated: see above")


def _settings(cfg: DictConfig) -> Any:
    from cvae.protocols.tools import Settings

    for key in map(str, cfg):
        if key not in EvaluateConfig.__dataclass_fields__:
            raise UserError(f"+{key}: an evaluation has no such key; --help lists them")
    for key in map(str, cfg.data):
        require(key in config.PLACES, f"data.{key}", cfg.data[key], "only the place of the data can be given")
    for group, known in (("lpips", ("weights", "net")), ("fvd", ("weights",))):
        for key in map(str, cfg[group]):
            require(key in known, f"{group}.{key}", cfg[group][key], f"choose {', '.join(known)}")
    names = ("split", "checkpoint", "seed", "frames", "device", "precision", "bair")
    return Settings(
        **{name: cfg[name] for name in names},
        lpips_weights=_path(cfg.lpips.weights),
        lpips_net=str(cfg.lpips.net),
        fvd_weights=_path(cfg.fvd.weights),
        places={f"data.{key}": value for key, value in cfg.data.items() if value is not None},
        allow_targets=list(cfg.allow_targets),
    )


def _path(value: Any) -> str | None:
    return None if value is None else str(value)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="evaluate")
def _evaluate(cfg: DictConfig) -> None:
    try:
        evaluate(cfg)
    except Exception as error:
        if not cli.is_users(error):
            raise
        cli.fail(error)


def main() -> None:
    def run() -> None:
        if cli.is_multirun(sys.argv[1:]):
            raise UserError("an evaluation cannot be swept: leave out -m, and give run=[A,B] or protocol=[course,srvp]")
        _evaluate()

    cli.guarded(run)


if __name__ == "__main__":
    main()
