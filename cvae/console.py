"""What the user sees while things happen: lines, warnings and progress bars; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cvae.errors import named

if TYPE_CHECKING:
    from rich.console import Console

_log = logging.getLogger("cvae")
_log.addHandler(logging.NullHandler())  # where nothing is configured, Python would print warnings a second time
# Control and formatting signs, which can turn round or hide the text after them, but for the line's end. Other than that
# report/html/assets/text.js has the same.
_INVISIBLE = re.compile(
    "[\\u0000-\\u0009\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff]"
)


@cache
def console() -> Console:
    """The one console, on standard output. It is made late: rich costs a tenth of a second that --help need not pay."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            """Nobody reads any more: end as other programs do. Rich exits with 1, as if there were an error."""
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + signal.SIGPIPE)

    return Quiet(highlight=False, soft_wrap=True)


def silence() -> None:
    """Print nothing from now on: in a process beside the one that prints for all."""
    console().quiet = True
    console().file = io.StringIO()  # no terminal: no bars are drawn to be dropped


def say(text: str, style: str | None = None, log: bool = True) -> None:
    """Print a line above any live bar, and log it (a run's folder keeps the log)."""
    text = printable(text)
    _print(text, style)
    if log:
        _log.info(text)


def warn(text: str) -> None:
    """Say a line that begins with ``warning:``."""
    text = printable(text)
    _print(f"warning: {text}", "yellow")
    _log.warning(text)


def _print(text: str, style: str | None) -> None:
    with named("standard output"):
        console().print(text, style=style, markup=False)


def printable(text: str) -> str:
    """Text without signs that a terminal would obey, or that turn round or hide what follows: names may come from strangers."""
    return _INVISIBLE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "sequences") -> Iterator[Callable[[int], None]]:
    """A bar for work done once; yields a function that advances it by so many units."""
    if not console().is_terminal:
        say(f"{title}: {total} {unit}")
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


def command() -> str:
    """The command that started this process, as it can be pasted."""
    return shlex.join([*program(), *sys.argv[1:]])


def program() -> list[str]:
    """The command without its arguments."""
    path = Path(sys.argv[0])
    inside = path.parent if path.name == "__main__.py" else path.with_suffix("")
    if path.suffix == ".py" and inside.parent.name == "cvae":
        return ["python", "-m", f"cvae.{inside.name}"]
    return ["python", str(path)] if path.suffix == ".py" else [path.name]


def only_prints(arguments: Sequence[str]) -> bool:
    """Whether Hydra will print something (--help, --cfg, completion ...) instead of running a job."""
    prints = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc")
    return any(argument.split("=")[0] in prints for argument in arguments)


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Rows of cells as lines with even columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def short(path: Path) -> str:
    """The path as the user would type it: relative where it lies below the working folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def natural_order(text: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key that compares digits by their value, so that ``run9`` comes before ``run10``; equal values by spelling."""
    parts = [(0, part) for part in re.split(r"(\d+)", text)]  # text and digits in turn
    parts[1::2] = [(len(digits.lstrip("0")), digits.lstrip("0")) for _, digits in parts[1::2]]
    return parts, text
