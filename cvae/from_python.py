"""A run that Python code starts: the command line that it stands for, and Hydra's run folder for it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.cli import quoted
from cvae.config import CONF, flat
from cvae.errors import UserError, brief
from cvae.start import compose, loader


def words_of(cfg: DictConfig) -> list[str]:
    """The overrides of the command that composes to this config, wherever the config comes from and whatever was set since.

    An option of a group is found by its values, so a config that was put together by hand has its options' names too.

    Raises:
        UserError: no command composes to it.
    """
    if not isinstance(cfg, DictConfig):
        raise UserError(f"cfg is a {type(cfg).__name__}: give the config that cvae.start.compose returns")
    wanted = _plain(cfg)
    base = _plain(compose([]))
    choices = [word for group in base for word in _choice(group, wanted.get(group), base[group])]
    words = [*choices, *_differences(wanted, _plain(compose(choices)))]
    try:
        found = _plain(compose(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"no command line composes to this config ({brief(error)}): set other values") from error
    if different := [key for key in {**flat(found), **flat(wanted)} if flat(found).get(key) != flat(wanted).get(key)]:
        raise UserError(
            f"{different[0]}={flat(wanted).get(different[0])!r} cannot be written on a command line: set another value"
        )
    return words


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    return {str(key): value for key, value in plain.items() if key not in ("hydra", "trial")}  # a run is no trial


def _choice(group: str, wanted: Any, usual: Any) -> list[str]:
    """The override that chooses the option of a group which is nearest to ``wanted``, none for the usual one.

    Two put the whole in its place where no option is of the same class and the usual one has nulls: Hydra takes none away.
    """
    options = sorted((CONF / group).glob("*.yaml"))
    if not isinstance(wanted, Mapping) or not options:
        return []

    def alike(values: Mapping[Any, Any]) -> tuple[bool, int]:
        own, other = flat(wanted), flat(values)
        same = sum(own[key] == other[key] for key in own.keys() & other.keys())
        return own.get("_target_") == other.get("_target_"), same - len(own.keys() ^ other.keys())

    found = {option.stem: alike(_read(option)) for option in options}
    best = max(found, key=lambda name: found[name])
    nulls = any(value is None and key not in flat(wanted) for key, value in flat(usual).items())
    if "_target_" in wanted and nulls and not (found[best][0] or alike(usual)[0]):
        return [f"~{group}", f"{group}={_word(wanted)}"]
    return [f"{group}={best}"] if found[best][0] and found[best] > alike(usual) else []


def _read(option: Path) -> dict[Any, Any]:
    plain: Any = OmegaConf.to_container(OmegaConf.load(option), resolve=False)
    return dict(plain)


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Overrides that turn one config into another."""
    new, old = flat(wanted), flat(found)
    gone = [key for key in old if key not in new and not any(other.startswith(f"{key}.") for other in new)]
    changed = [key for key in new if key not in old or old[key] != new[key]]
    return [f"~{key}" for key in gone] + [f"{'' if key in old else '++'}{key}={_word(new[key])}" for key in changed]


def _word(value: Any) -> str:
    """A value as Hydra's grammar has it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, str):
        bare = re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and value.lower() not in ("null", "true", "false", "nan", "inf")
        return value if bare else quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_word(each)}' for key, each in value.items())}}}"
    return repr(value)


def run(words: Sequence[str], task: Callable[[DictConfig, Path], Any], folder: Path | None) -> Any:
    """Call ``task`` as the job of ``python -m cvae.train WORDS``, in a run folder that Hydra makes; return what it returns.

    Logging, the words of this process's command line and Hydra's own state are afterwards as they were.

    Raises:
        UserError: and whatever the task raises.
    """
    from hydra.core.hydra_config import HydraConfig

    outcome: list[Any] = []

    def job(cfg: DictConfig) -> None:
        try:
            outcome[:] = [task(cfg, Path(HydraConfig.get().runtime.output_dir)), None]
        except Exception as error:  # Hydra would print lines of its own about it
            outcome[:] = [None, error]

    with _as_before(["cvae/train.py", *words]):
        where = [] if folder is None else [f"hydra.run.dir={quoted(str(folder))}"]
        Hydra(task_name="train", config_loader=loader()).run("config", job, [*words, *where])
    result, error = outcome
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def _as_before(arguments: list[str]) -> Iterator[None]:
    """Give this process another command line for a while, so that records say what repeats the run; keep its logging."""
    words, root = sys.argv, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = words
        for handler in [each for each in root.handlers if each not in handlers]:
            root.removeHandler(handler)
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
