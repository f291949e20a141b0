"""Packing: the files of a split, decoded once into arrays (``cvae.data.packed``)."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvae.console import progress
from cvae.data.layout import TABLES, Naming, read_frames, read_table
from cvae.data.listing import Listing
from cvae.data.packed import FORMAT, array_shapes
from cvae.data.pool import map_in_processes
from cvae.data.sealed import seal
from cvae.data.tables import Tables, declared, width
from cvae.errors import UserError

CHUNK = 32  # sequences a worker packs at a time: 12 MB of 30-frame sequences. The content's hash is one of their hashes
_POOL_FROM = 128  # sequences below which starting worker processes costs more than it saves


@dataclass(frozen=True)
class _Job:
    """Some sequences, and where their first frame goes: its number among all, and the bytes before all."""

    target: Path
    sequences: list[tuple[Path, int, Naming]]
    row: int
    tables: Tables
    headers: dict[str, int]


@dataclass
class _Done:
    """What is known of some sequences once they are packed."""

    content: bytes
    checksums: list[int]
    missing: dict[str, str]
    short: dict[str, str]


def pack(source: Path, listing: Listing, folder: Path, workers: int | None) -> dict[str, Any]:
    """Write frames.npy, cond.npy and, last, meta.json into ``folder``; return what meta.json holds.

    Raises:
        UserError: as ``read_frames`` and ``read_table``, or a worker was killed.
    """
    offsets = np.concatenate([[0], np.cumsum(listing.lengths)])
    headers = {name: npy_header(*shape) for name, shape in array_shapes(int(offsets[-1]), width(listing.tables)).items()}
    for name, header in headers.items():
        (folder / name).write_bytes(header)
    sequences = list(zip(listing.folders, listing.lengths, listing.namings, strict=True))
    ahead = {name: len(header) for name, header in headers.items()}
    jobs = [
        _Job(folder, sequences[i : i + CHUNK], int(offsets[i]), listing.tables, ahead) for i in range(0, len(sequences), CHUNK)
    ]
    digest = hashlib.sha256()
    known: dict[str, Any] = {"checksums": [], "missing": {}, "short": {}}
    with progress(f"packing {source}", len(sequences)) as advance:
        results = map_in_processes(_pack_chunk, jobs, 1 if len(sequences) < _POOL_FROM else workers)
        for job, done in zip(jobs, results, strict=True):
            digest.update(done.content)
            known["checksums"] += done.checksums
            known["missing"] = done.missing | known["missing"]
            known["short"] |= done.short
            advance(len(job.sequences))
    names = [f"{path.parent.name}/{path.name}" for path in listing.folders]
    said = {"names": names, "lengths": listing.lengths, "content": digest.hexdigest(), **known}
    return write_meta(folder, said, headers, listing.tables)


def write_meta(folder: Path, known: dict[str, Any], headers: dict[str, bytes], tables: Tables) -> dict[str, Any]:
    """Write meta.json beside the arrays of a copy that is complete; returns what it holds.

    Args:
        known: names, lengths, checksums, content, missing and short.
        headers: the first bytes of each array.
    """
    checksum, ahead = 0, len(headers["cond.npy"])
    with (folder / "cond.npy").open("rb") as file:
        file.seek(ahead)
        while block := file.read(1 << 16):
            checksum = zlib.crc32(block, checksum)
    own = {} if dict(tables) == TABLES else {"tables": declared(tables)}
    first_bytes = {name: text.hex() for name, text in headers.items()}
    meta = {"format": FORMAT, "cond_checksum": checksum, "headers": first_bytes, **known, **own}
    (folder / "meta.json").write_text(seal(meta))
    return meta


def address(meta: dict[str, Any]) -> str:
    """The name of a copy's folder: a hash of all that it says of the data. Equal data, names and gaps: one copy."""
    said = [meta[key] for key in ("content", "names", "lengths", "missing", "short", "tables") if key in meta]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def npy_header(dtype: type, shape: tuple[int, ...]) -> bytes:
    """The head of an .npy file."""
    text = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(text, described)
    return text.getvalue()


def _pack_chunk(job: _Job) -> _Done:
    """Decode some sequences into their rows. Rows are written, not mapped: a full disk is an error, not a signal."""
    done, digest, row = _Done(b"", [], {}, {}), hashlib.sha256(), job.row
    for folder, length, naming in job.sequences:
        frames_THWC = read_frames(folder, length, naming)
        cond_TA = _conditions(folder, length, naming, job.tables, done)
        for name, array in (("frames.npy", frames_THWC), ("cond.npy", cond_TA)):
            with (job.target / name).open("r+b") as file:
                file.seek(job.headers[name] + row * array[0].nbytes)
                file.write(array.data)
            digest.update(array.data)
        done.checksums.append(zlib.crc32(frames_THWC.data))
        row += length
    done.content = digest.digest()
    return done


def _conditions(
    folder: Path, length: int, naming: Naming, wanted: Tables, done: _Done
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """All tables beside each other, zeros for a missing one; tables that are missing or longer than needed are noted."""
    tables, name = [np.zeros((length, 0), np.float32)], f"{folder.parent.name}/{folder.name}"
    for file, columns in wanted.items():
        found = read_table(folder, file, length, columns)
        if found is None:
            done.missing.setdefault(file, name)
            found = np.zeros((length, len(columns)), np.float32), length
        table, rows = found
        if rows > length and naming.first == 1:
            raise UserError(
                f"{folder} has {length} frames from {naming.name(0)} on and {rows} rows in {file}: restore the frame before "
                "it, or remove the rows that belong to no frame"
            )
        if rows > length:
            done.short[name] = f"{length} frames, {rows} rows in {file}"
        tables.append(table)
    return np.concatenate(tables, axis=1)
