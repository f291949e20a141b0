"""What lies below a split's folder: its sequences, those that are not recognised, and a hash that changes with any file."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG

from cvae.console import natural_order
from cvae.data.layout import TABLES, Naming, refuse_absent
from cvae.data.tables import Tables, declared, read_tables
from cvae.errors import UserError

_FRAME = re.compile(r"(.*?)([0-9]+)\.(png|jpg|jpeg)", re.DOTALL)
_EXTENSIONS = ("png", "jpg", "jpeg", "csv")


@dataclass(frozen=True)
class Listing:
    """A split's sequence folders in natural order, the frames in each and how they are named."""

    folders: list[Path]
    lengths: list[int]
    namings: list[Naming]
    fingerprint: str
    """A hash of all names, sizes, and times of content and of inode: no program can set the second time back."""
    skipped: dict[str, str]
    """Folders that are not read as sequences, and why."""
    tables: Tables = field(default_factory=lambda: TABLES)
    """The tables that each sequence may have."""


class NoSequence(Exception):
    """Why a folder is not read as a sequence."""


def list_split(root: Path, split: str) -> Listing:
    """List ROOT/split without opening a file.

    Raises:
        UserError: the root or the split is missing, holds no sequences, or frames of a sequence are missing; or
            conditions.json is bad.
    """
    refuse_absent(root, split)
    digest, tables = hashlib.sha256(), read_tables(root)
    if tables != TABLES:
        digest.update(f"{declared(tables)}\n".encode())
    found: list[tuple[Path, int, Naming]] = []
    skipped: dict[str, str] = {}
    for name, sequence in sequence_folders(root / split, skipped):
        try:
            length, naming, files = frames_in(sequence)
        except NoSequence as reason:
            skipped[name] = str(reason)
            continue
        digest.update(f"{name}\n{files}\n".encode(errors="surrogateescape"))
        found.append((sequence, length, naming))
    if not found and (root / split / "frames.npy").exists():
        raise UserError(f"{root} holds packed arrays and no course layout: read it with data=packed")
    if not found:
        why = next((f" ({name}: {why})" for name, why in skipped.items()), "")
        raise UserError(f"{root / split} holds no sequences{why}: expected {root / split}/<traj folder>/<k>/0.png and so on")
    folders, lengths, namings = (list(column) for column in zip(*found, strict=True))
    return Listing(folders, lengths, namings, digest.hexdigest(), skipped, tables)


def sequence_folders(split: Path, skipped: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Name and folder of all that may be a sequence of a split; what cannot be one goes to ``skipped``, with the reason."""
    for traj in _subfolders(split, "", skipped):
        before = len(skipped)
        sequences = _subfolders(traj, f"{traj.name}/", skipped)
        if not sequences and len(skipped) == before:
            skipped[traj.name] = "no folders in it"
        for sequence in sequences:
            yield f"{traj.name}/{sequence.name}", sequence


def frames_in(folder: Path) -> tuple[int, Naming, str]:
    """How many frames a sequence has, how they are named, and a line for each of its files.

    Raises:
        NoSequence: it is none.
        UserError: a frame before others is missing, or a link leads nowhere.
    """
    pictures, files = _files(folder)
    return *_naming(folder, pictures), files


def _subfolders(folder: Path, prefix: str, skipped: dict[str, str]) -> list[Path]:
    """The folders in it that are not hidden; what is no folder because of a fault goes to ``skipped``."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir():
                        names.append(entry.name)
                    else:
                        entry.stat()
                except OSError as error:
                    what = "a link to nothing: " if entry.is_symlink() else ""
                    skipped[prefix + entry.name] = f"{what}{error.strerror}"
    except OSError as error:
        skipped[prefix.rstrip("/") or folder.name] = error.strerror or str(error)
    return [folder / name for name in sorted(names, key=natural_order)]


def _files(folder: Path) -> tuple[frozenset[str], str]:
    """The names of its pictures, and a line for each picture and table."""
    lines, pictures = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                extension = name.rpartition(".")[2]
                if extension not in _EXTENSIONS or name[0] == ".":
                    continue
                stat = _stat(entry)
                lines.append(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")
                if extension != "csv" and S_ISREG(stat.st_mode):
                    pictures.append(name)
    except OSError as error:
        raise NoSequence(error.strerror or str(error)) from error
    return frozenset(pictures), "\n".join(sorted(lines))


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and entry.is_symlink():
            raise UserError(f"{entry.path} is a link to a missing file ({error.strerror}): restore the file") from error
        raise


def _naming(folder: Path, pictures: frozenset[str]) -> tuple[int, Naming]:
    """How many frames a folder with these pictures has, and how they are named."""
    if pictures and (match := _FRAME.fullmatch(min(pictures))):  # almost always it names the first frame
        naming = Naming(match[1], len(match[2]), match[3], int(match[2]))
        if naming.first <= 1 and pictures == _names(naming, len(pictures)):
            return len(pictures), naming
    matches = [match for name in sorted(pictures) if (match := _FRAME.fullmatch(name))]
    if not matches:
        raise NoSequence(f"no frames: {min(pictures)} has no number" if pictures else "no frames")
    one = matches[0]
    width = min(len(match[2]) for match in matches)
    for match in matches:
        if (match[1], match[3]) != (one[1], one[3]) or match[2] != str(int(match[2])).zfill(width):
            raise NoSequence(f"pictures are named in more than one way, {one[0]} and {match[0]}")
    numbers = sorted(int(match[2]) for match in matches)
    naming = Naming(one[1], width, one[3], min(numbers[0], 1))
    names = {match[0] for match in matches}
    gap = next((name for name in map(naming.name, range(len(numbers))) if name not in names), None)
    if gap is None:
        return len(numbers), naming
    if numbers[0] > 1:
        gap = Naming(one[1], width, one[3]).name(0)
    missing = f"{gap} is missing, though later frames are there"
    if (naming.prefix, naming.extension) == ("", "png"):
        raise UserError(f"{folder}/{missing}: restore it, or remove the sequence; frames count from 0 or 1 without a gap")
    raise NoSequence(missing)


@lru_cache(maxsize=4096)
def _names(naming: Naming, count: int) -> frozenset[str]:
    return frozenset(map(naming.name, range(count)))
