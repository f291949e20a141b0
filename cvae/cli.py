"""Around Hydra: one clear line for every error a user can mend, and the overrides that act before a run folder exists."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.config import RunConfig, build, flat
from cvae.console import say
from cvae.data.layout import refuse_absent
from cvae.errors import UserError, expanded

CONF = Path(__file__).with_name("conf")
MENDABLE = (UserError, HydraException, OmegaConfBaseException)  # shown in one line
_RESUMABLE = ("device", "precision", "compile", "logger", "data.resident", "allow_targets")


_asked_for_tracebacks = False


def guarded(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry point and exit: bad input prints one line and exits 1, unless HYDRA_FULL_ERROR=1 asks for tracebacks."""
    global _asked_for_tracebacks
    _asked_for_tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Without it Hydra prints its own traceback of what goes wrong before a job; with it the exception comes here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.exit(main())
    except MENDABLE as error:
        fail(error)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def fail(error: Exception) -> NoReturn:
    """Print an error's line and exit 1. Call it within a single Hydra job: Hydra adds lines to exceptions, not to exits."""
    if _asked_for_tracebacks:
        raise error
    sys.stdout.flush()
    print(f"error: {explain(error)}", file=sys.stderr)
    raise SystemExit(1) from None


def explain(error: BaseException) -> str:
    """One line for an error of ours, Hydra's or OmegaConf's: what is wrong, and where possible the mend."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    text = str(error)
    cause = error.__cause__
    if "Could not find '" in text and "Available options in" in text:
        group, _, option = text.split("Could not find '", 1)[1].split("'", 1)[0].rpartition("/")
        options = [line.strip() for line in text.split("Available options in", 1)[1].splitlines()[1:] if line.strip()]
        return f"{group}={option}: no such option; choose {', '.join(options)}{_meant(option, options)}"
    if text.startswith("Error merging override ") and cause is not None:
        override = text.removeprefix("Error merging override ").splitlines()[0]
        return f"{override}: {str(cause).splitlines()[0]}"
    if text.startswith("Could not override '"):
        key = text.split("'", 2)[1]
        parent, _, name = key.rpartition(".")
        node = getattr(cause, "parent_node", None)
        meant = _meant(name, list(node) if isinstance(node, DictConfig) else [], f"{parent}." if parent else "")
        # What was declared with types takes no more keys; what a component takes is its own affair.
        add = "" if is_dataclass(getattr(cause, "object_type", None)) else f" (+{key}=... would add it)"
        return f"{key}: there is no such key{meant}; --cfg job shows all{add}"
    if text.startswith("Ambiguous value for argument '"):
        override = text.split("'")[1]
        key, _, value = override.partition("=")
        listed = ",".join(part.strip() for part in value.split(","))
        return f"{override}: several values are {key}=[{listed}], one with a comma is \"{key}='{value}'\", a sweep needs -m"
    if isinstance(error, OverrideParseException):
        if "=" not in error.override:
            return f"{error.override}: write it as key=value; --cfg job shows all keys"
        return f"{error.override}: cannot be read: check commas, brackets and quotes"
    if "Missing mandatory value" in text and (missing := getattr(error, "full_key", None)):
        return f"{missing} must be given: add {missing}=... to the command"
    return " ".join(text.split())


def _meant(word: str, choices: Sequence[Any], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, [str(choice) for choice in choices], 1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


# --- overrides --------------------------------------------------------------------------------------------------------


def is_multirun(arguments: Sequence[str]) -> bool:
    by_mode = override_values(arguments).get("hydra.mode", "").upper() == "MULTIRUN"
    return by_mode or any(argument in ("-m", "--multirun") for argument in arguments)


def under_torchrun() -> bool:
    """Whether this is one of the processes that torchrun starts."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()


def refuse_torchrun(multirun: bool) -> None:
    """Raise UserError if a multirun stands under torchrun, whose processes train one model together."""
    if multirun and under_torchrun():
        raise UserError("a multirun starts its own jobs, while torchrun's processes share one run: leave torchrun out")


def action(arguments: Sequence[str]) -> str | None:
    """``resume`` or ``show`` if the command line asks for it, else None: a run or a multirun.

    Raises:
        UserError: it asks for one of them in a multirun.
    """
    if only_prints(arguments):
        return None
    asked = [key for key in ("resume", "show") if override_values(arguments).get(key, "null") != "null"]
    if asked and is_multirun(arguments):
        raise UserError(f"{asked[0]}= acts on one run: leave -m out")
    return asked[0] if asked else None


def only_prints(arguments: Sequence[str]) -> bool:
    """Whether Hydra will print something (--help, --cfg, completion ...) instead of running a job."""
    prints = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc")
    return any(argument.split("=")[0] in prints for argument in arguments)


def override_values(arguments: Sequence[str]) -> dict[str, str]:
    """The ``key=value`` words of a command line, unparsed; flags are left out."""
    words = (word for word in arguments if "=" in word and not word.startswith("-"))
    return {key.lstrip("+~"): value for key, _, value in (word.partition("=") for word in words)}


def unfold(arguments: Sequence[str]) -> list[str]:
    """The command line with ``experiment=FILE.yaml`` (a sweep's best.yaml, say) replaced by the overrides that it amounts to.

    So the run's own record says what it was, whatever becomes of the file. What the user gave besides counts more.

    Raises:
        UserError: the file cannot be read, or sets up Hydra itself.
    """
    value = override_values(arguments).get("experiment", "")
    if not value.endswith((".yaml", ".yml")):
        return list(arguments)
    path = expanded(value.strip("'\""), "experiment")
    try:
        file = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:
        raise UserError(f"experiment={path} cannot be read ({' '.join(str(error).split())[:160]}): check the path") from error
    if not isinstance(file, dict) or "hydra" in file:
        raise UserError(f"experiment={path} is no list of settings, or sets up Hydra: put it into conf/experiment/ and name it")
    words, defaults = [], file.pop("defaults", None) or []
    for entry in defaults if isinstance(defaults, list) else [defaults]:
        group, option = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, None)
        if option is None or not str(group).startswith("override /"):
            raise UserError(f"experiment={path}: cannot read {entry!r} in its defaults: write `override /group: option`")
        words.append(f"{str(group).removeprefix('override /')}={option}")
    words += [f"{key}={_as_word(value)}" for key, value in flat(file).items()]
    rest = [word for word in arguments if not word.startswith("experiment=")]
    return [*words, *rest]


def _as_word(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_as_word, value))}]"
    return quoted(str(value))


def quoted(text: str) -> str:
    """A string as an override's value, whatever it holds."""
    return QuotedString(text, Quote.single).with_quotes()


def compose(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """Compose the training config outside of a Hydra job: no folder is made."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", list(overrides), return_hydra_config=with_hydra)


def refuse_start(overrides: Sequence[str]) -> None:
    """Raise UserError before Hydra makes a folder, if the command is no start.

    That is a multirun under torchrun, or a folder that the user names and that already holds a run: Hydra would write its
    config over the old.
    """
    if only_prints(overrides):
        return
    multirun = is_multirun(overrides)
    refuse_torchrun(multirun)
    _refuse_absent_data(overrides)
    if not {"hydra.run.dir", "hydra.sweep.dir"} & override_values(overrides).keys():
        return
    # The rest may be sweeps, which compose into no single config.
    hydra = compose([word for word in overrides if word.startswith(("hydra", "experiment="))], with_hydra=True).hydra
    multirun = multirun or hydra.mode == RunMode.MULTIRUN
    if multirun and "n_trials" in hydra.sweeper:
        return  # a study goes on in the folders where its trials began
    folder = Path(hydra.sweep.dir if multirun else hydra.run.dir)
    used = next(iter(sorted(folder.glob("*/run.json" if multirun else "run.json"))), None)
    if used is not None:
        raise UserError(
            f"{used.parent} already holds a run: choose another folder, or go on with {resume_command(used.parent)}"
        )


def _refuse_absent_data(overrides: Sequence[str]) -> None:
    """Raise UserError if no job of a multirun could find its data: a failed trial is not run again."""
    values = override_values(overrides)
    if not is_multirun(overrides) and "experiment" not in values:
        return
    try:
        parsed = OverridesParser.create().parse_overrides([word for word in overrides if not word.startswith("-")])
        swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
        cfg = compose([str(each.input_line) for each in parsed if not each.is_sweep_override()], with_hydra=True)
    except HydraException:
        return  # without the swept words it need not compose; who sweeps them says more
    hydra, data = cfg.hydra, cfg.data
    swept += hydra.sweeper.get("params") or {}
    if (hydra.mode != RunMode.MULTIRUN and not is_multirun(overrides)) or {"data", "data.root"} & set(swept):
        return
    if OmegaConf.is_missing(data, "root"):
        raise UserError("data.root must be given: add data.root=... to the command")
    elsewhere = "submitit" in str(hydra.launcher.get("_target_"))  # other hosts may see other folders
    depends = swept and OmegaConf.is_interpolation(data, "root")  # on a choice that each job makes, perhaps
    if data.get("_target_") == "cvae.data.store.VideoData" and not elsewhere and not depends:
        refuse_absent(expanded(data.root, "data.root"))


def resume_command(folder: Path) -> str:
    """The command that goes on with a run, as it can be pasted."""
    return f"python -m cvae.train resume={shlex.quote(str(folder))}"


def reopen(overrides: Sequence[str]) -> tuple[DictConfig, Path]:
    """The config and folder of ``resume=RUN``, with the overrides that a resumed run may take.

    Raises:
        UserError: RUN is no run folder, or an override would change what the run computes.
    """
    values = override_values(overrides)
    folder = expanded(values.pop("resume"), "resume")
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        raise UserError(f"resume={folder} is no run folder: it has no .hydra/config.yaml; runs are in multirun/single/")
    for key in values:
        if key not in _RESUMABLE and key.split(".")[0].split("@")[0] not in _RESUMABLE:
            raise UserError(
                f"{key} cannot change in a resumed run: only {', '.join(_RESUMABLE[:-1])} can; start a new run to change it"
            )
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(path))
    except Exception as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:160]}): restore it from a copy") from error
    assert isinstance(cfg, DictConfig)
    fresh = compose([word for word in overrides if not word.lstrip("+").startswith("resume=")])
    for key in sorted(values):  # logger before logger.mode
        OmegaConf.update(cfg, key, OmegaConf.select(fresh, key), merge=False)
    # allow_targets is the user's word, given anew; a run folder's own does not count.
    cfg.allow_targets = fresh.allow_targets
    return cfg, folder


def show(cfg: DictConfig) -> None:
    """``show=schedules``: draw both schedules into the current folder.

    Raises:
        UserError: there is nothing else to show.
    """
    from cvae.pictures import schedules

    if cfg.show != "schedules":
        raise UserError(f"show={cfg.show}: choose schedules")
    kl, forcing = (build(cfg[key], cfg.allow_targets) for key in ("kl_schedule", "tf_schedule"))
    path = Path("schedules.png").absolute()
    schedules(kl, forcing, (f"KL weight / beta: {kl}", f"teacher forcing / tfr: {forcing}"), path)
    say(f"drawn {path}")
