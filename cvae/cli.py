"""Around any Hydra app: one clear line for every error that a user can put right, and words of a command line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from cvae.config import CONF
from cvae.console import warn
from cvae.errors import UserError, expanded, named
from cvae.explain import explain, is_users

_asked_for_tracebacks = False
_hydras_outcome: Any = JobReturn.return_value


def guarded(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry point and exit: what a user can put right is one line and exit code 1; HYDRA_FULL_ERROR=1 shows tracebacks.

    Output that nobody reads any more (``| head -1``) ends the command without a word.
    """
    global _asked_for_tracebacks
    _asked_for_tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Without it Hydra prints its own traceback of what goes wrong before a job; with it the exception comes here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    JobReturn.return_value = property(_outcome, _hydras_outcome.fset)  # type: ignore[assignment]  # a property, as it was
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its allocator has lines of its own beside an error
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback on the screen
    # There is none where the shell closed it.
    sys.stdout, sys.stderr = (each or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") for each in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter shows its number
    try:
        code: object = None
        try:
            code = main()
        except SystemExit as end:  # Hydra's after --help, which it has not flushed; or that of an error
            code = end.code
        with named("standard output"):
            sys.stdout.flush()
        sys.exit(code)
    except Exception as error:
        if not is_users(error):
            raise
        fail(error)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def main_of(task: Callable[[DictConfig], None], config_name: str, not_swept: str) -> Callable[[], NoReturn]:
    """The ``main`` of a command that is no run: compose a config and call ``task`` with it, guarded.

    ``not_swept`` is what a user is told who asks for a multirun.
    """

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def job(cfg: DictConfig) -> None:
        try:
            task(cfg)
        except Exception as error:
            if not is_users(error):
                raise
            fail(error)

    def run() -> None:
        if is_multirun(sys.argv[1:]):
            raise UserError(not_swept)
        warn_of_hidden(parsed(sys.argv[1:]).config_dir)
        job()

    return functools.partial(guarded, run)


def fail(error: BaseException) -> NoReturn:
    """Print an error's line and exit 1. Call it within a single Hydra job: Hydra adds lines to exceptions, not to exits."""
    if isinstance(error, BrokenPipeError):
        _print_no_more()
        raise SystemExit(128 + signal.SIGPIPE) from None
    if _asked_for_tracebacks:
        traceback.print_exception(error)
    try:
        sys.stdout.flush()
    except OSError as failed:
        if isinstance(error, OSError) and error.errno == failed.errno:
            error.filename = error.filename or "standard output"
        _print_no_more()
    print(f"error: {explain(error)}", file=sys.stderr)
    raise SystemExit(1) from None


def end_of_signal(signum: int, _: object) -> NoReturn:
    """A handler of SIGTERM for where nobody else listens for it: what was begun is closed first."""
    raise SystemExit(128 + signum)


def _outcome(job: JobReturn) -> Any:
    """A job's value, or its error without the line that Hydra prints before it: an error is one line, of ours."""
    with contextlib.redirect_stderr(io.StringIO()):
        return _hydras_outcome.fget(job)


def _print_no_more() -> None:
    """Drop what is left to print, and what follows: Python flushes once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """A command line with its flags apart from its overrides.

    Raises:
        UserError: it cannot be read so.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}: give all key=value in one row, before or after the flags; --help shows the flags")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(list(words))


def warn_of_hidden(config_dir: str | None) -> None:
    """Warn of files in the user's folder of configs that Hydra passes over for this package's of the same name."""
    if config_dir is None:
        return
    own = expanded(config_dir, "--config-dir")
    hidden = sorted(str(path.relative_to(own)) for path in own.glob("*/*.yaml") if (CONF / path.relative_to(own)).is_file())
    if hidden:
        few = ", ".join(hidden[:3]) + ", ..." * (len(hidden) > 3)
        warn(f"{own} has {few}, and so has this package, whose files are taken: give yours other names")


def is_multirun(arguments: Sequence[str]) -> bool:
    by_mode = override_values(arguments).get("hydra.mode", "").upper() == "MULTIRUN"
    return by_mode or any(argument in ("-m", "--multirun") for argument in arguments)


def override_values(arguments: Sequence[str]) -> dict[str, str]:
    """The ``key=value`` words of a command line, unparsed; flags are left out."""
    words = (word for word in arguments if "=" in word and not word.startswith("-"))
    return {key.lstrip("+~"): value for key, _, value in (word.partition("=") for word in words)}


def quoted(text: str) -> str:
    """A string as an override's value, whatever it holds."""
    return QuotedString(text, Quote.single).with_quotes()
