"""What a command line of cvae.train asks for, before Hydra makes a run folder, and what a start needs."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cvae.cli import is_multirun, override_values, quoted
from cvae.config import CONF, build, flat
from cvae.console import only_prints, say, warn
from cvae.errors import UserError, expanded
from cvae.strangers import forget_caches, is_changed, names_path, read_settings, refuse_new_root, refuse_resolvers

_OF_THE_COMMAND = ("logger", "trial", "allow_targets", "resume", "show", "evaluate")


def action(arguments: Sequence[str]) -> str | None:
    """``resume`` or ``show`` if the command line asks for it, else None: a run or a multirun.

    Raises:
        UserError: it asks for the first in a multirun.
    """
    if only_prints(arguments):
        return None
    asked = [key for key in ("resume", "show") if override_values(arguments).get(key, "null") != "null"]
    if "resume" in asked and is_multirun(arguments):
        raise UserError("resume= acts on one run: leave -m out")
    return asked[0] if asked else None


def under_torchrun() -> bool:
    """Whether this is one of the processes that torchrun starts."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()


def compose(words: Sequence[str]) -> DictConfig:
    """Compose the training config as a command line asks for it, outside of a Hydra job: no folder is made.

    Args:
        words: overrides and Hydra's flags (``--config-dir``, ``--config-name``, ``--config-path``). What sweeps is left out.

    Raises:
        HydraException: there is no such key or option, or the words cannot be read.
        UserError: ``--config-dir`` is not a folder.
    """
    cfg = load(args := parsed(words), args.overrides)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """A command line with its flags apart from its overrides."""
    return get_args_parser().parse_args(list(words))


def load(args: argparse.Namespace, overrides: list[str]) -> DictConfig:
    """The config with its ``hydra`` node, found where the flags say."""
    found = loader(args.config_path, args.config_dir)
    return found.load_configuration(args.config_name or "config", overrides, RunMode.MULTIRUN)


def loader(config_path: str | None = None, config_dir: str | None = None, further: Sequence[str] = ()) -> ConfigLoaderImpl:
    """What composes configs, from this package's folder, before it from the user's, and from ``further`` ones."""
    setup_globals()
    search_path = create_config_search_path(config_path or str(CONF))
    own = list(further)
    if config_dir is not None:
        folder = expanded(config_dir, "--config-dir")
        if not folder.is_dir():
            raise UserError(f"--config-dir={folder} is not a folder: check the path")
        own.append(f"file://{folder}")
    for source in own:
        search_path.prepend("command-line", source, SearchPathQuery(provider="schema"))  # as Hydra does
    return ConfigLoaderImpl(search_path)


def own_configs(hydra: HydraConf | DictConfig) -> list[str]:
    """Where the command says that further configs are, by ``--config-dir`` and ``hydra.searchpath``: ``schema://path`` each."""
    sources = [(each.schema, each.path) for each in hydra.runtime.config_sources if "command-line" in each.provider]
    return [f"{schema}://{Path(hydra.runtime.cwd, path) if schema == 'file' else path}" for schema, path in sources]


def own_configs_of(words: Sequence[str]) -> list[str]:
    """The same of a command that Hydra does not run, as one with ``resume=``."""
    args = parsed(words)
    return own_configs(load(args, [word for word in args.overrides if word.lstrip("+").startswith("hydra.searchpath=")]).hydra)


def protocol_nodes(names: Sequence[str], configs: Sequence[str] = ()) -> dict[str, Any]:
    """The files of protocols, of this package or of the command's ``own_configs``, by their names.

    Raises:
        UserError: there is no such protocol.
    """
    found: dict[str, Any] = {}
    files = loader(further=configs)
    choices = [name for name in files.get_group_options("protocol") if re.fullmatch(r"[\w-]+", name)]
    for name in names:
        if name not in choices:
            own = "" if configs else "; one of yours needs the --config-dir of its folder"
            raise UserError(f"evaluate names {name!r}, and there is no such protocol: choose {', '.join(choices)}{own}")
        node = files.load_configuration(f"protocol/{name}", [], RunMode.RUN).protocol
        found |= cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    return found


def check_start(words: Sequence[str]) -> tuple[bool, Path | None]:
    """Check a command before Hydra makes a folder.

    Returns:
        Whether it starts a multirun, and the folder of a single run, if its name holds no moment and no chance.

    Raises:
        UserError: a multirun under torchrun or without its data, or a folder that the user names and that already holds a run:
            Hydra would write its config over the old.
    """
    if only_prints(words):
        return False, None
    args = parsed(words)
    try:
        cfg = load(args, args.overrides)
    except HydraException:  # without the swept words it need not compose; Hydra itself will say what is wrong
        cfg = load(args, [word for word in args.overrides if word.startswith(("hydra", "experiment="))])
        OmegaConf.update(cfg, "data", None, merge=False)
    _warn_of_hidden(args.config_dir)
    hydra = cfg.hydra
    multirun = is_multirun(words) or hydra.mode == RunMode.MULTIRUN
    if multirun and under_torchrun():
        raise UserError("a multirun starts its own jobs, while torchrun's processes share one run: leave torchrun out")
    if multirun and cfg.data is not None:
        _check_data(cfg, args.overrides)
    if multirun and "n_trials" in hydra.sweeper:
        return True, None  # a study goes on in the folders where its trials began
    folder = Path(hydra.sweep.dir if multirun else hydra.run.dir)
    refuse_used(folder, "*/" if multirun else "")
    fixed = not re.search(r"\$\{(now|cvae\.nonce)", str(OmegaConf.to_container(hydra.run, resolve=False)))
    return multirun, folder if fixed and not multirun else None


def _warn_of_hidden(config_dir: str | None) -> None:
    """Warn of files in the user's folder of configs that Hydra passes over for this package's of the same name."""
    if config_dir is None:
        return
    own = expanded(config_dir, "--config-dir")
    hidden = sorted(str(path.relative_to(own)) for path in own.glob("*/*.yaml") if (CONF / path.relative_to(own)).is_file())
    if hidden:
        few = ", ".join(hidden[:3]) + ", ..." * (len(hidden) > 3)
        warn(f"{own} has {few}, and so has this package, whose files are taken: give yours other names")


def refuse_used(folder: Path, below: str = "") -> None:
    """Raise UserError if there is a run in a folder, or ``below`` it: Hydra would write its config over the old."""
    for name in ("run.json", "checkpoints/last.pt"):
        if used := min(folder.glob(f"{below}{name}"), default=None):
            used = used.parents[name.count("/")]
            raise UserError(f"{used} already holds a run: choose another folder, or go on with {resume_command(used)}")


def _check_data(cfg: DictConfig, overrides: list[str]) -> None:
    """Raise UserError if no job of a multirun can find its data: every one of them would fail."""
    from cvae.data.contract import Dataset

    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    params = cfg.hydra.sweeper.get("params")
    swept += map(str, params) if isinstance(params, DictConfig) else []  # the sweeper refuses anything else
    chosen_by_jobs = swept and "${" in str(OmegaConf.to_container(cfg.data))
    on_other_hosts = "submitit" in str(cfg.hydra.launcher.get("_target_"))  # which may see other folders
    if not (chosen_by_jobs or on_other_hosts or any(key.split(".")[0] == "data" for key in swept)):
        build(cfg.data, cfg.allow_targets, Dataset).check()


def resume_command(folder: Path, allow_targets: Sequence[str] = (), configs: Sequence[str] = ()) -> str:
    """The command that goes on with a run, as it can be pasted, with the ``own_configs`` of the one that began it."""
    allowed = [f"allow_targets=[{','.join(allow_targets)}]"] * bool(allow_targets)
    own = [f"hydra.searchpath=[{','.join(map(quoted, configs))}]"] * bool(configs)
    return shlex.join(["python", "-m", "cvae.train", f"resume={folder}", *allowed, *own])


# --- a sweep's best settings -------------------------------------------------------------------------------------------


def unfold(arguments: Sequence[str]) -> list[str]:
    """The command line with ``experiment=FILE.yaml`` (a sweep's best.yaml, say) replaced by the overrides that it amounts to.

    So the run's own record says what it was, whatever becomes of the file. What the user gave besides counts more. The file may
    come from a stranger: it sets the app's own keys and nothing else, and names no package that components may come from.

    Raises:
        UserError: the file cannot be read, or sets more than the app's own keys.
    """
    value = override_values(arguments).get("experiment", "").strip("'\"")
    if not value.endswith((".yaml", ".yml")):
        return list(arguments)
    path = expanded(value, "experiment")
    where = f"experiment={path}"
    file = _file_of_settings(path, where)
    defaults = file.pop("defaults", None) or []
    choices = [_choice(entry, where) for entry in (defaults if isinstance(defaults, list) else [defaults])]
    values = flat(file)
    left_out = [key for key in (*choices, *values) if _of_the_command(key)]
    if left_out:
        keys = ", ".join(key.partition("=")[0] for key in left_out)
        say(f"{where}: left out {keys}, which only a command can set")
    values = {key: each for key, each in values.items() if key not in left_out}
    _check_values(values, arguments, where)
    words = [choice for choice in choices if choice not in left_out]
    rest = [word for word in arguments if not word.startswith("experiment=")]
    new = _new_keys(values, rest, words)
    words += [f"{'+' * (key in new)}{key}={_as_word(each)}" for key, each in values.items()]
    # Before the user's own, and beside them: Hydra wants all overrides in one row, not parted by flags.
    first = arguments.index(parsed(arguments).overrides[0])
    return [*rest[:first], *words, *rest[first:]]


def _new_keys(values: Mapping[str, Any], arguments: Sequence[str], choices: Sequence[str]) -> set[str]:
    """Keys below a group that its option does not have, as a metric of the user's: their words add them."""
    args = parsed(arguments)
    try:
        base = load(args, [*choices, *args.overrides])
    except (HydraException, OmegaConfBaseException, UserError):  # the whole command says what is wrong
        return set()
    absent = object()
    missing = [key for key in values if "." in key and OmegaConf.select(base, key, default=absent) is absent]
    return {key for key in missing if key.partition(".")[0] in base}


def _file_of_settings(path: Path, where: str) -> dict[Any, Any]:
    try:
        real = path.resolve()  # the user may name a link
        file, changed = read_settings(real.parent, real.name), is_changed(real.parent, real.name)
    except Exception as error:  # whatever a damaged file leads YAML and OmegaConf to raise
        raise UserError(f"{where} cannot be read ({' '.join(str(error).split())[:160]}): check the path") from error
    if not isinstance(file, dict):
        raise UserError(f"{where} is not a list of settings: write key: value, a line each")
    if not file:
        raise UserError(f"{where} sets nothing; it may be cut off: restore it from a copy, or leave it out")
    if changed:
        warn(f"{where} was changed or damaged since a sweep wrote it: look at its values; sweep.json beside it has the trial's")
    forget_caches(file)
    return file


def _of_the_command(word: str) -> bool:
    return bool(re.match(rf"\+?({'|'.join(_OF_THE_COMMAND)})([.=@]|$)", word)) or word.endswith(".cache_dir")


def _choice(entry: Any, where: str) -> str:
    """The override for an entry of an experiment file's defaults: another option of a group, or a group more."""
    key, option = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, None)
    found = re.fullmatch(r"(override )?/([\w-]+(/[\w-]+)*(@\w+(\.\w+)*)?)", str(key))
    # An option is a file below its group's folder: one that leads out of it would be read as the user's own config.
    if found is None or not isinstance(option, str) or not re.fullmatch(r"[\w-]+([./][\w-]+)*", option):
        raise UserError(f"{where}: cannot read {entry!r} in its defaults: write `override /group: option`")
    if re.search(r"(^|[/@.])(hydra|experiment([/@.]|$))", found[2]):
        raise UserError(f"{where} sets {found[2]}, which is no key of a run: put the file into conf/experiment/")
    return f"{'' if found[1] else '+'}{found[2]}={option}"


def _check_values(values: dict[str, Any], arguments: Sequence[str], where: str) -> None:
    """Raise UserError for what is no key of a run, a path to an option, a look at the environment, or a place not there yet."""
    for key, value in values.items():
        if key.startswith("hydra") or key == "experiment" or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*", key):
            raise UserError(f"{where} sets {key}, which is no key of a run: put the file into conf/experiment/")
        if "." not in key and names_path(value):
            raise UserError(f"{where} has {key}={value}, which is a path: write it without, or in the command")
    refuse_resolvers(values, where)
    if (root := values.get("data.root")) is not None and "data.root" not in override_values(arguments):
        try:
            refuse_new_root(OmegaConf.create({"root": root}).root, where)
        except OmegaConfBaseException as error:
            raise UserError(f"{where} has data.root={root}, which cannot be read here: give data.root=FOLDER") from error


def _as_word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_as_word, value))}]"
    return (
        quoted(value) if isinstance(value, str) else json.dumps(value, default=str)
    )  # null, true and numbers as Hydra has them
