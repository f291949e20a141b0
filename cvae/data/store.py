"""A folder in the course layout as a dataset: packed once into arrays, which every start on the same files shares."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
from functools import lru_cache
from itertools import product
from pathlib import Path

from cvae.console import say, warn
from cvae.data import index
from cvae.data.cache import HINT, cache_places, cache_root, locked, put, scratch
from cvae.data.layout import refuse_absent
from cvae.data.listing import Listing, list_split
from cvae.data.packed import PackedSplit, PackedSplits, fingerprint_of
from cvae.data.packing import address, pack
from cvae.data.sealed import Damaged
from cvae.data.tables import chosen
from cvae.errors import UserError, is_whole, require, writing

__all__ = ["VideoData"]

_NAME_ALL = "CVAE_NAME_ALL"  # an environment variable
_NAMED = 3  # sequences, where it is not set


class VideoData(PackedSplits):
    """A folder in the course layout (see ``cvae.data.layout``), packed on first use.

    Args:
        root: the folder that holds train, validate and test.
        condition: ``actions_positions``, all tables (A = 7), ``actions``, the first one (4), or ``none`` (0); other tables
            are declared in ROOT/conditions.json. True future positions leak state compared with action-only benchmarks, so
            results name it.
        normalise, random_start, resident: see ``contract.Dataset``.
        cache_dir: where packed arrays live; None for $CVAE_CACHE or the user's cache.
        workers: processes that pack; None for one a core.

    Raises:
        UserError: as ``list_split``, ``read_frames`` and ``read_table``, when a split is first used; when frames are first
            used: a packed copy is damaged.
    """

    def __init__(
        self,
        root: str,
        condition: str = "actions_positions",
        normalise: bool = True,
        random_start: bool = True,
        resident: str = "auto",
        cache_dir: str | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(root, condition, normalise, random_start, resident)
        require(workers is None or is_whole(workers, 1), "data.workers", workers, "give a number of processes, or null")
        self.cache_dir, self.workers = cache_dir, workers

    def expect(self, fingerprint: str) -> None:
        """Take the packed train and validate splits whose fingerprint this is, as they were when this root was last listed.

        No file of the root is looked at. If there are none, the splits open as usual.

        Raises:
            UserError: they lack a table that the conditions need.
        """
        for place in cache_places(self.cache_dir):
            packed = place / "packed"
            known = (index.entries(packed, self.root, name) for name in ("train", "validate"))
            for train, validate in product(*known):
                if fingerprint_of(train.content, validate.content) == fingerprint:
                    one, other = self._copy(packed / train.copy), self._copy(packed / validate.copy)
                    if one and other:
                        self.train, self.validate = self._fit("train", one), self._fit("validate", other)
                        return

    def check(self) -> None:
        refuse_absent(self.root, "train")
        refuse_absent(self.root, "validate")

    def _open(self, name: str) -> PackedSplit:
        listing = list_split(self.root, name)
        _tell(self.root / name, "folders are not read as sequences", listing.skipped)
        split = self._found(name, listing) or self._packed(name, listing)
        _tell(self.root / name, "sequences have fewer frames than rows", split.meta["short"])
        return self._fit(name, split)

    def _changed(self, source: Path) -> None:
        """What to do where a split was read again and holds other data than before."""
        warn(f"{source} holds other data than before")

    def _fit(self, name: str, split: PackedSplit) -> PackedSplit:
        """The split, if it has the tables that the conditions need."""
        for file in chosen(split.tables, self.condition):
            if missing := split.meta["missing"].get(file):
                raise UserError(
                    f"{self.root / name / missing / file} is missing: data.condition={self.condition} needs it in every "
                    "sequence; data.condition=none needs no CSV"
                )
        return split

    def _found(self, name: str, listing: Listing, tell: bool = True) -> PackedSplit | None:
        """The copy of these files, in whichever place it lies; nothing is written if the index has it under this root."""
        for place in cache_places(self.cache_dir):
            packed = place / "packed"
            entry = index.find(packed, self.root, name, listing.fingerprint)
            split = self._copy(packed / entry.copy, tell) if entry else None
            if entry and split:
                own = entry in index.entries(packed, self.root, name)
                if not own and os.access(packed / "roots", os.W_OK):
                    with contextlib.suppress(UserError):  # the note only spares the search
                        index.record(packed, self.root, name, entry)
                return split
        return None

    def _copy(self, folder: Path, tell: bool = False) -> PackedSplit | None:
        try:
            return PackedSplit(folder, self.condition)
        except Damaged as error:
            if tell:
                say(f"{folder} is incomplete, damaged or of another version ({error}): packing it again")
            return None

    def _packed(self, name: str, listing: Listing) -> PackedSplit:
        """Read the files once. The copy is dropped if there is an equal one, which another root may have."""
        packed, source = cache_root(self.cache_dir) / "packed", self.root / name
        place = index.place_of(packed, self.root, name)
        with writing(packed, HINT), locked(place) as alone:
            if split := self._found(name, listing, tell=False):  # another process packed it meanwhile
                return split
            known = index.entries(packed, self.root, name)
            if known and all(entry.listing != listing.fingerprint for entry in known):
                say(f"{source} is not as it was when it was packed: it is read again")
            with scratch(place, alone) as folder:
                meta = pack(source, listing, folder, self.workers)
                before = [entry.content for entry in known if entry.host == platform.node()]  # others may hold others there
                if before and meta["content"] not in before:
                    self._changed(source)
                if list_split(self.root, name).fingerprint != listing.fingerprint:
                    raise UserError(f"{source} changed while it was read: start again when nothing writes to it any more")
                # First the index, so that nobody takes the copy for one that no root uses.
                index.record(packed, self.root, name, index.entry(listing.fingerprint, meta["content"], address(meta)))
                put(folder, packed / address(meta), lambda copy: self._copy(copy) is not None)
        _tell_unused(packed)
        split = self._copy(packed / address(meta))
        if split is None:
            raise UserError(f"{packed / address(meta)} is damaged as soon as it is written: choose another data.cache_dir")
        return split


def _tell(source: Path, what: str, found: dict[str, str]) -> None:
    """Warn of sequences by name, the first few or all."""
    shown = [f"{name} ({why})".replace("\n", "\\n") for name, why in found.items()]
    if os.environ.get(_NAME_ALL):
        for line in shown:
            warn(f"{source}: {line}")
    elif shown:
        more = f" ...; {_NAME_ALL}=1 names all" if len(shown) > _NAMED else ""
        warn(f"{source}: {len(shown)} {what}: {', '.join(shown[:_NAMED])}{more}")


def _tell_unused(packed: Path) -> None:
    if copies := index.unused(packed):
        _name_unused(packed, tuple(copies))


@lru_cache(maxsize=1)  # a start packs up to three splits, and says it once
def _name_unused(packed: Path, copies: tuple[Path, ...]) -> None:
    few = len(copies) <= _NAMED
    command = shlex.join(["rm", "-r", *map(str, copies if few else [packed])])
    with_others = "" if few else ", with those in use, which are packed again"
    say(f"packed copies of files that no dataset has any more ({len(copies)}) can be removed{with_others}: {command}")
