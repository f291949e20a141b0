"""A checkpoint's seal: no byte of the file can change unseen, and its facts are read without PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cvae import integrity
from cvae.integrity import Damaged, Lines


@pytest.fixture
def sealed(tmp_path) -> Path:
    """A small archive as PyTorch writes it (stored, not compressed), sealed with the facts of two lines."""
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n')
    path = tmp_path / "last.pt"
    with path.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", b"a" * 100)
            archive.writestr("archive/data/0", bytes(range(256)))
        integrity.seal(file, {"epoch": 2, "iteration": 0, "dataset": "abc", **Lines(b'{"epoch": 1}\n{"epoch": 2}\n').facts()})
    return path


def test_facts_come_back_and_the_archive_is_still_one(sealed):
    found = integrity.facts(sealed)
    assert found == integrity.verify(sealed)
    assert [found[key] for key in ("epoch", "lines", "bytes", "dataset")] == [2, 2, 26, "abc"]
    with zipfile.ZipFile(sealed) as archive:
        assert archive.testzip() is None
        assert archive.read("archive/data/0") == bytes(range(256))


def test_every_bit_of_every_byte_counts(sealed):
    content = sealed.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        sealed.write_bytes(changed)
        with pytest.raises(Damaged):
            integrity.verify(sealed)


@pytest.mark.parametrize("with_seal", [True, False])
@pytest.mark.parametrize("kind", ["compressed", "records one over another"])
def test_an_archive_that_takes_more_than_its_file_is_damaged(with_seal, kind, tmp_path):
    """A few kilobytes that would become gigabytes once they are loaded."""
    path = tmp_path / "last.pt"
    with path.open("w+b") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data/0", bytes(10_000))
            if kind != "compressed":
                archive.filelist += archive.filelist * 9
        if with_seal:
            integrity.seal(file, {"epoch": 1})
    with pytest.raises(Damaged, match="its records are"):
        integrity.verify(path)


def test_settings_are_read_within_bounds(tmp_path):
    path = tmp_path / "config.yaml"
    path.touch()
    os.truncate(path, 20 << 30)
    with pytest.raises(Damaged, match="larger than"):
        integrity.sha256_of(path)


def test_every_cut_counts(sealed):
    content = sealed.read_bytes()
    for length in range(len(content)):
        os.truncate(sealed, length)
        with pytest.raises(Damaged):
            integrity.verify(sealed)
        sealed.write_bytes(content)
    sealed.write_bytes(content + b"\0")
    with pytest.raises(Damaged):
        integrity.verify(sealed)


def test_an_archive_without_a_seal_has_no_facts_and_its_own_checksums(tmp_path):
    path = tmp_path / "old.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", b"0123456789")
    assert integrity.facts(path) is None
    assert integrity.verify(path) is None
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456788"))
    with pytest.raises(Damaged, match="checksum"):
        integrity.verify(path)


def test_in_a_run_that_seals_an_archive_without_a_seal_is_damaged(sealed, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path, record = tmp_path / "checkpoints" / "last.pt", tmp_path / "run.json"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", b"0123456789")
    for said in ('{"id": "a"}', '{"sealed": 1}', "[", "[1]"):  # of a version before, or not to be read
        record.write_text(said)
        assert integrity.verify(path) is None
    record.write_text('{"id": "a", "sealed": true}')
    with pytest.raises(Damaged, match="lacks its seal"):
        integrity.verify(path)
    sealed.replace(path)
    assert integrity.verify(path)["epoch"] == 2


@pytest.mark.parametrize("kind", ["pipe", "folder", "empty", "text"])
def test_what_is_no_checkpoint_is_damaged_and_blocks_nobody(tmp_path, kind):
    path = tmp_path / "last.pt"
    {"pipe": os.mkfifo, "folder": os.mkdir, "empty": Path.touch, "text": lambda path: path.write_text("x" * 9999)}[kind](path)
    with pytest.raises((Damaged, OSError)):
        integrity.facts(path)


def test_lines_are_compared_up_to_the_checkpoints(sealed):
    path, facts = sealed.with_name("metrics.jsonl"), integrity.facts(sealed)
    whole = path.read_bytes()
    integrity.check_lines(path, facts)
    path.write_bytes(whole[:30])  # what a kill leaves of a line after the checkpoint
    integrity.check_lines(path, facts)
    for changed in (whole[:25], whole.replace(b"2", b"4"), whole[13:], whole[:13] + whole[:13] + whole[26:], b""):
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            integrity.check_lines(path, facts)
    path.unlink()
    with pytest.raises(OSError, match="metrics"):
        integrity.check_lines(path, facts)


def test_a_record_s_checksum_covers_all_but_its_times():
    record = {"b": [1.5, None], "a": {2: "x"}, "times": {"seconds": 1}}
    found = json.loads(integrity.stamped(record))
    integrity.check_record(found)
    integrity.check_record({**found, "times": {"seconds": 2}})
    integrity.check_record({"b": 3})  # of a version before
    for changed in ({**found, "b": [1.25, None]}, {**found, "c": 1}, {**found, "sha256": "0"}, {**found, "sha256": None}):
        with pytest.raises(Damaged, match="its checksum is another"):
            integrity.check_record(changed)


def test_lines_add_up():
    lines = Lines(b"a\n")
    lines.add(b"bc\n")
    assert lines.facts() == Lines(b"a\nbc\n").facts()
    assert (lines.count, lines.size) == (2, 5)


def test_it_needs_the_standard_library_alone():
    code = "import cvae.integrity, sys, json; print(json.dumps([n for n in ('torch', 'hydra', 'numpy') if n in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400, check=True)
    assert json.loads(found.stdout) == []
