"""``experiment=FILE.yaml``: a file of settings, as a sweep's best.yaml, as the overrides that it amounts to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.cli import override_values, parsed, quoted
from cvae.config import flat
from cvae.console import say, warn
from cvae.errors import UserError, expanded
from cvae.start import load
from cvae.strangers import forget_caches, is_changed, names_path, read_settings, refuse_new_root, refuse_resolvers

_OF_THE_COMMAND = ("logger", "trial", "allow_targets", "resume", "show", "evaluate")


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
    # A group that the command takes away comes back as a whole, not key by key.
    gone = {word[1:] for word in rest if re.fullmatch(r"~\w+", word)}
    whole = OmegaConf.create({})
    for key in [key for key in values if key.partition(".")[0] in gone]:
        OmegaConf.update(whole, key, values.pop(key), force_add=True)
    new = _new_keys(values, rest, words)
    words += [f"{key}={_as_word(each)}" for key, each in cast(dict[str, Any], OmegaConf.to_container(whole)).items()]
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
            refuse_new_root(OmegaConf.create({"root": root}).root, where, root)
        except OmegaConfBaseException as error:
            raise UserError(f"{where} has data.root={root}, which cannot be read here: give data.root=FOLDER") from error


def _as_word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_as_word, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_as_word(each)}' for key, each in value.items())}}}"
    return (
        quoted(value) if isinstance(value, str) else json.dumps(value, default=str)
    )  # null, true and numbers as Hydra has them
