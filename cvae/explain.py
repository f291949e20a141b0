"""An error in one line: what is wrong, and where possible how to fix it."""

from __future__ import annotations

import difflib
import errno
import re
import traceback
from collections.abc import Sequence
from dataclasses import is_dataclass
from types import FrameType
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cvae.console import printable
from cvae.errors import PARTS, UserError, first_line

USER_ERRORS = (UserError, HydraException, OmegaConfBaseException)  # shown in one line


def is_users(error: BaseException) -> bool:
    """Whether an error is one line: it is the user's to put right, or what the system refuses."""
    shown = isinstance(error, (*USER_ERRORS, OSError, MemoryError))
    others = (_out_of_memory, _circle_of_links, _of_a_log, _of_a_config_file, of_a_part)
    return shown or any(read(error) for read in others)


def explain(error: BaseException) -> str:
    """One line for an error of ours, Hydra's or OmegaConf's: what is wrong, and where possible how to fix it.

    Hydra's and OmegaConf's errors are known by their English; a line that none of the readers knows is shown as it is.
    """
    if not isinstance(error, UserError):
        readers = (
            *(_no_such_option, _no_such_key, _wrong_value, _several_values, _unreadable_override, _missing_value),
            *(_of_a_resolver, _out_of_memory, _circle_of_links, _of_a_log, _of_a_config_file, _system_error, of_a_part),
        )
        if line := next(filter(None, (read(error) for read in readers)), None):
            return printable(line)
    return printable(" ".join(str(error).split()))


def of_a_part(error: BaseException) -> str | None:
    """What a component of the user's own raised, wherever it was called: a backbone, an optimizer, a metric, a data set."""
    if isinstance(error, USER_ERRORS):
        return None
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _of_parts(frame)]
    if not frames:
        return None
    frame, line = frames[-1]
    where = f"{frame.f_globals['__name__']}.{getattr(frame.f_code, 'co_qualname', frame.f_code.co_name)}"
    said = first_line(error)
    return (
        f"{where} raises {type(error).__name__}{f': {said}' if said else ''} ({frame.f_code.co_filename}, line {line}): "
        "correct it there, or choose another; HYDRA_FULL_ERROR=1 shows the traceback"
    )


def _of_parts(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return any(module == package or module.startswith(f"{package}.") for package in PARTS)


def _of_a_config_file(error: BaseException) -> str | None:
    """A file of configs that is no YAML, or no text; or a group to which nothing was given."""
    if isinstance(error, yaml.YAMLError):
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        return f"{where} is no YAML ({problem}): correct it there"
    if isinstance(error, UnicodeDecodeError):
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        read = next((each.f_locals for each in frames if each.f_code.co_filename.endswith("file_config_source.py")), None)
        path = "" if read is None else read.get("full_path", "a config file")
        return f"{path} is no text in UTF-8 ({error.reason}): save it as UTF-8" if path else None
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be a string"):
        return "a group was given no option, as in data=null: choose one; --help shows those of each group"
    return None


def _no_such_option(error: BaseException) -> str | None:
    message = r"(?s).*Could not find '([^']+)'\s+Available options in [^\n]*\n(.*?)(?:\nConfig search path:|\Z)"
    found = re.match(message, str(error))
    if not found:
        return None
    group, _, option = found[1].rpartition("/")
    options = found[2].split()
    return f"{group}={option}: no such option; choose {', '.join(options)}{_meant(option, options)}"


def _no_such_key(error: BaseException) -> str | None:
    found = re.match(r"Could not override '(.+?)'", str(error))
    if not found:
        return None
    parent, _, name = found[1].rpartition(".")
    node = getattr(error.__cause__, "parent_node", None)
    meant = _meant(name, list(node) if isinstance(node, DictConfig) else [], f"{parent}." if parent else "")
    if parent.startswith("hydra."):
        return f"{found[1]}: there is no such key{meant}; {_who_has(parent, name)}--cfg hydra shows all"
    # What was declared with types takes no more keys; what a component takes is its own affair.
    add = "" if is_dataclass(getattr(error.__cause__, "object_type", None)) else f" (+{found[1]}=... would add it)"
    return f"{found[1]}: there is no such key{meant}; --cfg job shows all{add}"


def _who_has(group: str, name: str) -> str:
    """Which launchers or sweepers have a key that the chosen one has not."""
    if group not in ("hydra.launcher", "hydra.sweeper"):
        return ""
    path, store = group.replace(".", "/"), ConfigStore.instance()
    options = [option for option in store.list(path) if option.endswith(".yaml")]
    having = [option.removesuffix(".yaml") for option in options if name in store.load(f"{path}/{option}").node]
    return f"it is one of {' and '.join(f'{path}={option}' for option in having)}; " if having else ""


def _wrong_value(error: BaseException) -> str | None:
    found = re.match(r"Error merging override (.+)", str(error))
    if not (found and error.__cause__):
        return None
    (key, _, value), said = found[1].partition("="), str(error.__cause__).splitlines()[0]
    if "ListConfig" in said:
        said = f"it takes a list; several are [1,2], one is {key}=[{value if re.fullmatch('[^{}]+', value) else '...'}]"
    elif "is not Optional" in said:
        said = "null is none of its values; --cfg job shows the default, --help what can be chosen"
    return f"{found[1]}: {said}"


def _several_values(error: BaseException) -> str | None:
    found = re.match(r"Ambiguous value for argument '(.+?)'", str(error))
    if not found:
        return None
    key, _, value = found[1].partition("=")
    listed = ",".join(part.strip() for part in value.split(","))
    return f"{found[1]}: several values are {key}=[{listed}], one with a comma is \"{key}='{value}'\", a sweep needs -m"


def _unreadable_override(error: BaseException) -> str | None:
    if not isinstance(error, OverrideParseException):
        return None
    if "=" not in error.override:
        return f"{error.override}: write it as key=value; --cfg job shows all keys"
    return f"{error.override}: cannot be read: check commas, brackets and quotes"


def _missing_value(error: BaseException) -> str | None:
    missing = getattr(error, "full_key", None)
    if missing and "Missing mandatory value" in str(error):
        return f"{missing} must be given: add {missing}=... to the command"
    return None


def _of_a_resolver(error: BaseException) -> str | None:
    """A UserError of a resolver of ours: OmegaConf keeps its text, and no cause."""
    found = re.match(r"(?s)(\w+) raised while resolving interpolation: (.*?)(?:\n    full_key|\Z)", str(error))
    if not found:
        return None
    return found[2] if found[1] in ("UserError", "Diverged") else f"{found[2]}; check the path, or what the key refers to"


def _out_of_memory(error: BaseException) -> str | None:
    text = str(error)
    on_gpu = re.search(r"CUDA out of memory|CUDA error: out of memory|STATUS_ALLOC_FAILED", text) is not None
    allocators = on_gpu or "not enough memory" in text or "allocate memory" in text
    library = isinstance(error, ImportError) and ("failed to map segment" in text or "cannot allocate memory" in text.lower())
    if not (isinstance(error, MemoryError) or library or (isinstance(error, RuntimeError) and allocators)):
        return None
    said = f" ({first})" if (first := re.split(r"[.\n]", text)[0]) else ""
    what = "batch_size, n_samples or model.backbone.width" + (", set data.resident=host" if on_gpu else "")
    return f"out of memory{said}: lower {what}, or set model.backbone.checkpointing=true"


def _system_error(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.strerror is None:
        return None
    place = error.filename
    if not place:  # a write, and not by us: Hydra's functions know where they write to
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        place = next(
            (each[name] for each in reversed(frames) for name in ("output_dir", "sweep_dir", "path") if name in each), None
        )
    hint = "check the path, its permissions and the space that is left"
    if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        hint = "its file system has no locks (flock): choose another place"
    return f"{place or 'a file of this command'}: {error.strerror}; {hint}"


def _of_a_log(error: BaseException) -> str | None:
    """Of a log that the system refuses, Python only says which handler it was for."""
    return _system_error(error.__cause__) if isinstance(error, ValueError) and isinstance(error.__cause__, OSError) else None


def _circle_of_links(error: BaseException) -> str | None:
    found = re.fullmatch(r"Symlink loop from '(.*)'", str(error)) if isinstance(error, RuntimeError) else None  # of pathlib's
    return f"{found[1]}: a link that leads back to itself; remove it, or choose another path" if found else None


def _meant(word: str, choices: Sequence[Any], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, [str(choice) for choice in choices], 1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


# --- words of a command line ------------------------------------------------------------------------------------------
