"""Which packed copy holds the files of a folder: a small file for each root and split, ``PACKED/roots/<hash>.json``.

Each has a few entries, the newest last: one a host, because hosts that share a cache may hold other files at the same place.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from cvae.data.cache import HINT
from cvae.data.sealed import Damaged, read_sealed, seal
from cvae.errors import write_whole

_KEPT = 16  # entries of a root and split


@dataclass(frozen=True)
class Entry:
    """Files as they were listed, and the copy that holds them."""

    listing: str
    content: str
    copy: str
    host: str


def place_of(packed: Path, root: Path, split: str) -> Path:
    """The index file of a root and split, without its extension."""
    return packed / "roots" / hashlib.sha256(os.fsencode(f"{root}\0{split}")).hexdigest()[:24]


def entries(packed: Path, root: Path, split: str) -> list[Entry]:
    """What is known of a root and split, the newest first, this host's before others'; nothing if its file is damaged."""
    found = _read(place_of(packed, root, split).with_suffix(".json"))[::-1]
    return sorted(found, key=lambda each: each.host != platform.node())


def find(packed: Path, root: Path, split: str, listing: str) -> Entry | None:
    """The entry of these very files, also if they were packed from another path that leads to them."""
    for known in (entries(packed, root, split), *map(_read, _files(packed))):
        for each in known:
            if each.listing == listing:
                return each
    return None


def entry(listing: str, content: str, copy: str) -> Entry:
    """An entry of this host's."""
    return Entry(listing, content, copy, platform.node())


def record(packed: Path, root: Path, split: str, new: Entry) -> None:
    """Note which copy holds a root's files; it takes the place of what was noted for that host before.

    Raises:
        UserError: the cache cannot be written to.
    """
    path = place_of(packed, root, split).with_suffix(".json")
    kept = [each for each in _read(path) if each.host != new.host]
    told = [asdict(each) for each in [*kept, new][-_KEPT:]]
    write_whole(path, seal({"root": str(root), "split": split, "entries": told}), HINT)


def unused(packed: Path) -> list[Path]:
    """Copies that no root uses any more; none where an index file is damaged, which might name them."""
    used: set[str] = set()
    for path in _files(packed):
        try:
            known = read_sealed(path)
        except Damaged:
            return []
        gone = _is_gone(Path(known["root"]))
        used |= {each["copy"] for each in known["entries"] if each["host"] != platform.node() or not gone}
    folders = (path for path in packed.iterdir() if path.is_dir() and path.name[0] != "." and path.name != "roots")
    return sorted(path for path in folders if path.name not in used)


def _files(packed: Path) -> list[Path]:
    try:
        return sorted(packed.glob("roots/*.json"))
    except OSError:  # a place that cannot be read holds nothing
        return []


def _read(path: Path) -> list[Entry]:
    try:
        return [Entry(**each) for each in read_sealed(path)["entries"]]
    except Damaged:  # as if it were not there: the files are read once more
        return []


def _is_gone(root: Path) -> bool:
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there again tomorrow
        return False
    return False
