"""``show=schedules``: draw what a command would schedule, of a multirun every setting side by side, and train nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from cvae import cli, start
from cvae.config import build
from cvae.console import say
from cvae.errors import UserError
from cvae.run_schedules import Plan, said_of
from cvae.schedules import Schedule, checked

_MOST = 24  # panels of one picture
_TRIED = 1000  # settings of a multirun that are composed
_DIALS = ("tfr", "beta", "epochs", "schedule_step")  # of a run, that scale its schedules
_UNSEEN = ("lr", "seed", "optim", "model", "prior", "data", "logger", "device", "batch_size", "epoch_size", "n_samples")


def schedules(words: Sequence[str]) -> None:
    """Draw both schedules of a command into ``schedules.png`` in the current folder.

    Raises:
        UserError: there is nothing else to show, or a multirun has too many settings to be drawn.
    """
    from cvae import charts  # late, as all that draws

    found: dict[str, tuple[DictConfig, Plan]] = {}
    for overrides in _settings(words):
        cfg = start.load(cli.parsed(words), overrides)
        if cfg.show != "schedules":
            raise UserError(f"show={cfg.show}: choose schedules")
        plan = _plan(cfg)
        found.setdefault(repr((_options(cfg), plan)), (cfg, plan))
        if len(found) > _MOST:
            raise UserError(
                f"show=schedules draws at most {_MOST} settings of schedules, and this multirun has more: name fewer"
            )
    plans = [plan for _, plan in found.values()]
    differing = [name for name in _DIALS if len({getattr(plan, name) for plan in plans}) > 1]
    path = Path("schedules.png").absolute()
    charts.schedules([(_title(cfg, plan, differing), plan) for cfg, plan in found.values()], path)
    say(f"drawn {path}")


def _plan(cfg: DictConfig) -> Plan:
    kl, forcing = (checked(key, build(cfg[key], cfg.allow_targets, Schedule)) for key in ("kl_schedule", "tf_schedule"))
    beta = cfg.beta
    if beta is None:
        from cvae.model.objective import Likelihood  # late: it needs torch

        beta = build(cfg.likelihood, cfg.allow_targets, Likelihood).default_beta
    return Plan(kl, forcing, beta, cfg.tfr, cfg.epochs, cfg.schedule_step)


def _options(cfg: DictConfig) -> tuple[str, str]:
    chosen = cfg.hydra.runtime.choices
    return str(chosen.get("kl_schedule", "")), str(chosen.get("tf_schedule", ""))


def _title(cfg: DictConfig, plan: Plan, differing: Sequence[str]) -> str:
    kl, forcing = _options(cfg)
    lines = [f"KL {said_of(kl, plan.kl_schedule)}", f"forcing {said_of(forcing, plan.tf_schedule)}"]
    return "\n".join([*lines, ", ".join(f"{name} {getattr(plan, name)}" for name in differing)])


# --- the settings of a multirun ---------------------------------------------------------------------------------------


def _settings(words: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a multirun, as far as schedules depend on them; of a single run its own."""
    given = cli.parsed(words).overrides
    parser = OverridesParser.create()
    mine = parser.parse_overrides(given)
    plain = [word for word, override in zip(given, mine, strict=True) if not override.is_sweep_override()]
    sweeper = _sweeper(words, plain)
    params = sweeper.get("params") or {}
    named = {override.get_key_element() for override in mine}
    of_file = [f"{key}={value}" for key, value in params.items() if str(key) not in named]
    swept = [override for override in [*parser.parse_overrides(of_file), *mine] if override.is_sweep_override()]
    seen = [override for override in swept if override.get_key_element().split(".")[0] not in _UNSEEN]
    if free := [override.get_key_element() for override in seen if not override.is_discrete_sweep()]:
        say(f"drawn at their own values, since a sweep chooses them from a range: {', '.join(free)}")
    grid = list(itertools.islice(itertools.product(*map(_words, seen)), _TRIED + 1))
    if len(grid) > _TRIED:
        raise UserError(f"show=schedules: this multirun has more than {_TRIED} settings: name fewer")
    conditions = sweeper.get("conditions") or {}
    return [[*plain, *(word for word in chosen if _holds(word, chosen, conditions))] for chosen in grid]


def _sweeper(words: Sequence[str], plain: list[str]) -> Any:
    return start.load(cli.parsed(words), plain).hydra.sweeper


def _words(override: Override) -> list[str]:
    """What a swept word stands for, a word each; none for a range."""
    if not override.is_discrete_sweep():
        return [""]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _holds(word: str, chosen: Sequence[str], conditions: Any) -> bool:
    """Whether a job is given a word: not if it is of a range, or depends on another choice."""
    condition = conditions.get(word.partition("=")[0])
    return bool(word) and (condition is None or str(condition) in chosen)
