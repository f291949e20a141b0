"""Read files that may come from a stranger: regular files only, of a bounded size, and nothing that grows when it is parsed.

A folder of runs may hold anything: a pipe on which a reader would wait for ever, a device, a link to the reader's own files, a
sparse file of 20 GB, a few lines of YAML that stand for gigabytes. Whatever reads the folders of runs and studies reads them
through these functions. Each takes a folder and the name of a file in or below it; links may not lead out of the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from cvae.errors import brief

JSON, YAML = 1 << 20, 1 << 17  # bytes of a record and of settings; parsed they may take twenty times as many
_DEPTH = 50  # of nodes within nodes
_SCALAR = 10_000  # letters of one YAML value: some kinds of numbers take long to read
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(ValueError):
    """A file or folder is not what it should be. The message names it, as the caller did, and says why in one line."""


def read(folder: Path, name: str, limit: int) -> bytes:
    """The content of a file.

    Args:
        limit: the most bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is no regular file, too large, out of the folder, or may not be read.
    """
    with _opened(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise Unreadable(f"{name} is too large: {_amount(size)}, and more than {_amount(limit)} are not read")
        return file.read(size)  # not to the end, of which some devices have none


def head(folder: Path, name: str, limit: int = 4096) -> str:
    """The beginning of a text file of any size. Raises as ``read`` does."""
    with _opened(folder, name) as file:
        return file.read(min(limit, os.fstat(file.fileno()).st_size)).decode(errors="replace")


def read_json(folder: Path, name: str, limit: int = JSON) -> Any:
    """A JSON file, parsed. Raises as ``read`` does, and Unreadable for what is no JSON."""
    content = read(folder, name, limit)
    try:
        return json.loads(content.decode())
    except RecursionError:
        raise Unreadable(f"{name} is damaged (nested too deeply)") from None
    except ValueError as error:
        raise Unreadable(f"{name} is damaged ({brief(error)})") from None


def yaml_text(folder: Path, name: str, limit: int = YAML) -> str:
    """The text of a YAML file that any loader may parse: without aliases, deep nesting and huge values.

    Raises as ``read`` does, and Unreadable for what is no such YAML.
    """
    content = read(folder, name, limit)
    try:
        text, depth = content.decode(), 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise Unreadable(f"{name} has YAML aliases, a few of which can stand for gigabytes: write the values out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                raise Unreadable(f"{name} is damaged (nested too deeply)")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > _SCALAR:
                raise Unreadable(f"{name} is damaged (a value of {len(event.value)} letters)")
    except Unreadable:
        raise
    except (ValueError, yaml.YAMLError) as error:
        raise Unreadable(f"{name} cannot be read ({brief(error)})") from None
    return text


def read_yaml(folder: Path, name: str, limit: int = YAML) -> Any:
    """A YAML file, parsed into plain values. Raises as ``yaml_text`` does."""
    text = yaml_text(folder, name, limit)
    try:
        return yaml.load(text, Loader=_LOADER)  # a safe loader, in C where there is one
    except (ValueError, TypeError, ArithmeticError, AttributeError, yaml.YAMLError) as error:  # a date of month 13, say
        raise Unreadable(f"{name} cannot be read ({brief(error)})") from None


def entries(folder: Path, most: int) -> list[os.DirEntry[str]]:
    """What lies in a folder, in no order.

    Raises:
        Unreadable: it holds more than ``most``, or may not be read; the message does not name it.
    """
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                found.append(entry)
                if len(found) > most:
                    raise Unreadable(f"it holds more than {most:,} files")
    except OSError as error:
        raise Unreadable(f"it cannot be read ({brief(error)})") from error
    return found


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[BinaryIO]:
    try:
        root, path = os.path.realpath(folder), Path(os.path.realpath(folder / name))
        if os.path.commonpath([root, path]) != root:
            raise Unreadable(f"{name} is a link that leads out of the folder")
        # Asked before it is opened, since to open a device may do something, and after, since another may lie there by now.
        _refuse_irregular(path.stat(), name)
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            _refuse_irregular(os.fstat(file.fileno()), name)
            yield file
    except (FileNotFoundError, Unreadable):
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise Unreadable(f"{name} cannot be read ({brief(error)})") from error


def _refuse_irregular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(f"{name} is not a regular file")


def _amount(size: int) -> str:
    """A number of bytes in words."""
    power = max(0, (max(size, 1).bit_length() - 1) // 10)
    return f"{size / 1024**power:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"
