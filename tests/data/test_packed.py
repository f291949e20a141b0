"""Packed copies: shared by equal folders, opened without a look at the files, and never believed where they are damaged."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from servers import need

import cvae
from cvae.data import index, packing
from cvae.data.packed import PackedSplit
from cvae.data.sealed import Damaged, read_sealed, seal
from cvae.data.store import VideoData
from cvae.data.synthetic import synthetic_push, write_world
from cvae.errors import UserError

REPOSITORY = Path(cvae.__file__).parents[1]
LENGTHS = {"train": [3, 5] * 20, "validate": [4, 2, 6]}


def draw(root: Path, lengths: dict[str, list[int]] = LENGTHS) -> Path:
    """Pictures and tables by a formula; every third sequence has no positions."""
    grid_HWC = np.arange(64 * 64 * 3).reshape(64, 64, 3)
    for split, counts in lengths.items():
        for k, length in enumerate(counts):
            folder = root / split / f"traj_{k // 8}" / str(k)
            folder.mkdir(parents=True)
            for t in range(length):
                Image.fromarray(((grid_HWC * (k + 1) + 7 * t) % 256).astype(np.uint8)).save(folder / f"{t}.png")
            for file, width in [("actions.csv", 4)] + ([("endeffector_positions.csv", 3)] if k % 3 else []):
                rows = [",".join(str((t * width + c) / 8 - k) for c in range(width)) for t in range(length)]
                (folder / file).write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("packed") / "course")


@pytest.fixture
def mine(course: Path, tmp_path: Path) -> Path:
    """A copy with its times, that a test may change."""
    return Path(shutil.copytree(course, tmp_path / "mine"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sequences that were read, as they are."""
    folders: list[Path] = []
    real = packing.read_frames

    def read_frames(folder: Path, *words: Any) -> NDArray[np.uint8]:
        folders.append(folder)
        return real(folder, *words)

    monkeypatch.setattr(packing, "read_frames", read_frames)
    return folders


def open_(root: Path, **options: Any) -> VideoData:
    return VideoData(str(root), condition="actions", **options)


def contents(split: PackedSplit) -> list[tuple[bytes, bytes]]:
    return [(frames.tobytes(), cond.tobytes()) for frames, cond in split]


def copies(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache/packed").iterdir()} - {"roots"}


# -------------------------------------------------------------------------------------------------- fingerprints


def test_the_fingerprint_is_that_of_version_0_1_0(course):
    """Old records of runs hold it: written by that version for these very files."""
    data = open_(course)
    assert data.fingerprint == "6a77b61a82a329cb"
    assert (data.train.fingerprint, data.validate.fingerprint) == ("6a0f76c2b8a12b86", "a9a0945e381e6373")


# ------------------------------------------------------------------------------------------------------ sharing


def test_an_equal_folder_is_read_once_and_shares_the_copy(course, mine, tmp_path, decoded):
    one = open_(course)
    expected = [one.train.folder, one.validate.folder]
    assert len(decoded) == 43
    for _ in range(2):
        other = open_(mine)
        assert [other.train.folder, other.validate.folder] == expected
        assert len(decoded) == 86
    assert copies(tmp_path) == {folder.name for folder in expected}


def test_another_path_to_the_same_files_reads_nothing(course, tmp_path, decoded):
    open_(course).train  # noqa: B018
    (tmp_path / "link").symlink_to(course)
    open_(tmp_path / "link").train  # noqa: B018
    assert len(decoded) == 40


def change_digit(folder: Path) -> None:
    """Neither the size nor the time of the file changes."""
    path = folder / "actions.csv"
    before = path.stat()
    path.write_text(path.read_text().replace(".5", ".6", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_change_with_the_same_size_and_time_is_found_and_the_old_copy_named(mine, tmp_path, capsys):
    before = open_(mine).validate
    old = before.folder
    change_digit(mine / "validate/traj_0/1")
    capsys.readouterr()
    after = open_(mine).validate
    assert contents(after) != contents(before)
    said = capsys.readouterr().out
    assert f"{mine / 'validate'} is not as it was when it was packed: it is read again" in said
    assert f"packed copies of files that no dataset has any more (1) can be removed: rm -r {old}" in said
    subprocess.run(shlex.split(said.rpartition("removed: ")[2]), check=True)
    assert contents(open_(mine).validate) == contents(after)
    assert capsys.readouterr().out == ""


def test_many_unused_copies_are_one_short_line(course, tmp_path, capsys):
    for number in range(40):
        (tmp_path / f"cache/packed/train-{number:024x}").mkdir(parents=True)
    kept = contents(open_(course).validate)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "can be removed" in line)
    assert "(40)" in line
    assert line.endswith(f"rm -r {tmp_path / 'cache/packed'}")
    assert len(line) < 300 + len(str(tmp_path))
    subprocess.run(shlex.split(line.rpartition(": ")[2]), check=True)
    assert contents(open_(course).validate) == kept


def test_copies_of_folders_that_are_gone_and_of_older_versions_are_named(course, mine, tmp_path, capsys):
    (tmp_path / "cache/packed/train-0123456789abcdef01234567").mkdir(parents=True)
    change_digit(mine / "train/traj_0/1")
    gone = open_(mine).train.folder
    shutil.rmtree(mine)
    capsys.readouterr()
    used = open_(course).train.folder
    said = capsys.readouterr().out.split()
    assert str(gone) in said
    assert str(tmp_path / "cache/packed/train-0123456789abcdef01234567") in said
    assert str(used) not in said


def test_hosts_that_share_a_cache_do_not_push_each_other_out(course, mine, monkeypatch, decoded):
    """Each has files of its own at the same path, as on local disks."""
    here = open_(mine).validate
    node = index.platform.node
    monkeypatch.setattr(index.platform, "node", lambda: "another")
    aside = mine.with_name("aside")
    mine.rename(aside)
    shutil.copytree(course, mine)
    change_digit(mine / "validate/traj_0/1")
    there = open_(mine).validate
    assert there.folder != here.folder
    assert len(decoded) == 6
    assert open_(mine).validate.folder == there.folder
    monkeypatch.setattr(index.platform, "node", node)
    shutil.rmtree(mine)
    aside.rename(mine)
    assert open_(mine).validate.folder == here.folder


def test_files_that_change_while_they_are_read_are_not_taken(mine, tmp_path, monkeypatch):
    real = packing.read_frames

    def read_frames(folder: Path, *words: Any) -> NDArray[np.uint8]:
        change_digit(mine / "validate/traj_0/1")
        return real(folder, *words)

    monkeypatch.setattr(packing, "read_frames", read_frames)
    with pytest.raises(UserError, match="changed while it was read"):
        open_(mine).validate  # noqa: B018
    assert copies(tmp_path) == set()


def test_a_complete_cache_that_is_read_only_is_used_as_it_is(course, tmp_path, monkeypatch):
    expected = open_(course).fingerprint
    before = sorted((tmp_path / "cache").rglob("*"))
    (tmp_path / "cache").rename(tmp_path / "shared")
    for name in ("mkdir", "write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, lambda *_, **__: pytest.fail("written to"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert open_(course, cache_dir=str(tmp_path / "shared")).fingerprint == expected
    assert [path.relative_to(tmp_path / "shared") for path in sorted((tmp_path / "shared").rglob("*"))] == [
        path.relative_to(tmp_path / "cache") for path in before
    ]


# ------------------------------------------------------------------------------------------------------- expect


def test_expected_data_are_taken_as_they_were_without_a_look_at_the_files(mine, monkeypatch):
    before = open_(mine)
    expected = before.fingerprint
    shutil.rmtree(mine / "train")
    data = open_(mine)
    data.expect(expected)
    assert data.fingerprint == expected
    assert contents(data.train) == contents(before.train)


@pytest.mark.parametrize("why", ["other", "lost", "damaged", "unknown"])
def test_what_is_not_there_as_expected_opens_as_usual(mine, tmp_path, why):
    data = open_(mine)
    expected = data.fingerprint
    if why == "lost":
        shutil.rmtree(data.train.folder)
    if why == "damaged":
        flip(data.train.folder / "cond.npy", 200)
    if why == "unknown":
        shutil.rmtree(tmp_path / "cache/packed/roots")
    again = open_(mine)
    again.expect("0" * 16 if why == "other" else expected)
    assert again.fingerprint == expected


def test_expected_data_must_have_what_the_conditions_need(course):
    expected = open_(course).fingerprint
    data = VideoData(str(course))
    with pytest.raises(UserError, match=r"endeffector_positions.csv is missing"):
        data.expect(expected)


TRIAL = """
import sys
from cvae.data.store import VideoData
data = VideoData(sys.argv[1], condition="actions")
if sys.argv[2] != "usual":
    data.expect(sys.argv[2])
print(data.fingerprint, len(data.train.gather(__import__("numpy").arange(40), 0, 3)[0]))
"""


@pytest.mark.slow
def test_no_file_of_the_source_is_touched_where_data_are_expected(course, tmp_path):
    need("strace")
    expected = open_(course).fingerprint

    def touched(word: str) -> int:
        log = tmp_path / f"{word}.strace"
        command = ["strace", "-f", "-e", "trace=file", "-o", str(log), sys.executable, "-c", TRIAL, str(course), word]
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
        assert result.stdout == f"{expected} 40\n", result.stderr
        lines = log.read_text().splitlines()
        return sum(str(course) in line and "execve" not in line for line in lines)

    assert touched(expected) == 0
    assert touched("usual") > 43  # it counts


# ------------------------------------------------------------------------------------------------------- damage


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)


def cut(path: Path, at: int) -> None:
    os.truncate(path, at)


def used(root: Path) -> list[tuple[bytes, bytes]]:
    return contents(open_(root).validate)


@pytest.mark.parametrize("damage", [flip, cut], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["frames.npy", "cond.npy", "meta.json", "index"])
def test_damage_anywhere_is_named_or_mended_and_never_believed(course, capsys, name, damage: Callable[..., None]):
    expected = used(course)
    copy = open_(course).validate.folder
    path = index.place_of(copy.parent, course, "validate").with_suffix(".json") if name == "index" else copy / name
    whole, refused = path.read_bytes(), []
    for at in [*np.linspace(0, len(whole) - 1, 10).astype(int).tolist(), *range(7, 128, 30)]:
        damage(path, at)
        harmless = name == "index" and read_sealed_or_none(path) is not None  # another blank
        capsys.readouterr()
        try:
            assert used(course) == expected
            said = capsys.readouterr().out
            assert harmless or (f"packing {course}" if name == "index" else f"{copy} is incomplete, damaged") in said
        except UserError as error:
            refused.append(str(error))
        path.write_bytes(whole)
    assert len(refused) == (9 if (name, damage) == ("frames.npy", flip) else 0)
    for said in refused:
        assert "\n" not in said
        for part in (str(path), shlex.join(["rm", "-r", str(copy)]), "start or resume again"):
            assert part in said


def read_sealed_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(path)
    except Damaged:
        return None


def test_a_sequence_is_checked_when_it_is_first_used_and_once(course):
    split = open_(course).train
    flip(split.folder / "frames.npy", (split.folder / "frames.npy").stat().st_size - 1)
    split = open_(course).train
    split.gather(np.array([0, 1]), 0, 3)
    with pytest.raises(UserError, match="damaged in sequence traj_4/39"):
        split.gather(np.array([39]), 0, 3)
    with pytest.raises(UserError, match="damaged in sequence traj_4/39"):
        split[-1]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[1", "null", "{}", '{"checksum": 1}', "[" * 100_000, "\xff", '{"entries": []}'],
    ids=lambda text: text[:12],
)
def test_what_is_not_sealed_is_not_believed(tmp_path, text):
    (tmp_path / "meta.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Damaged):
        read_sealed(tmp_path / "meta.json")
    (tmp_path / "meta.json").write_text(seal({"a": [1, "ü", "\udcff"]}))
    assert read_sealed(tmp_path / "meta.json") == {"a": [1, "ü", "\udcff"]}


def test_rows_that_cannot_be_written_are_one_line(course, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "_pack_chunk", full)
    with pytest.raises(UserError, match=r"cannot write .*packed \(No space left on device\): free some space"):
        open_(course).validate  # noqa: B018
    assert copies(tmp_path) == set()


# ----------------------------------------------------------------------------------------- the simulated world


def test_a_simulated_world_that_lost_a_sequence_is_named(tmp_path):
    write_world(tmp_path / "world", {"train": 3, "validate": 1, "test": 0}, seed=0)
    shutil.rmtree(tmp_path / "world/train/traj_0_to_255/1")
    with pytest.raises(UserError, match=r"world/train has 2 of its 3 sequences: remove .*world"):
        synthetic_push(train=3, validate=1, test=0, root=str(tmp_path / "world")).train  # noqa: B018


def test_a_simulated_world_in_a_cache_that_is_read_only_is_used(tmp_path, monkeypatch):
    expected = synthetic_push(train=2, validate=1, test=0).fingerprint
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert synthetic_push(train=2, validate=1, test=0).fingerprint == expected


# ---------------------------------------------------------------------------------------------- a plain script

SCRIPT = """
from cvae.data.store import VideoData
print("once", flush=True)
data = VideoData("mine", condition="actions", workers=2)
print(data.fingerprint)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "module", "stdin"])
def test_a_plain_script_needs_no_guard(tmp_path, way):
    root = draw(tmp_path / "mine", {"train": [2] * 130, "validate": [2]})
    (tmp_path / "plain.py").write_text(SCRIPT)
    words = {"script": ["plain.py"], "module": ["-m", "plain"], "stdin": ["-"]}[way]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, *words], input=SCRIPT, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("once") == 1
    assert result.stdout.split()[-1] == VideoData(str(root), condition="actions").fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"checksums": [1]},
        {"lengths": "abc"},
        {"lengths": None},
        {"lengths": [1e30]},
        {"lengths": [0, 6, 6]},
        {"headers": {"frames.npy": "zz"}},
        {"headers": 5},
        {"tables": {"actions.csv": 5}},
        {"names": ["one"]},
        {"names": [1, 2, 3]},
        {"content": None},
    ],
)
def test_what_a_sealed_record_cannot_say_is_damage(course, tmp_path, change):
    """Its own checksum fits: somebody else sealed it."""
    folder = Path(shutil.copytree(open_(course).validate.folder, tmp_path / "copy"))
    meta = read_sealed(folder / "meta.json") | change
    (folder / "meta.json").write_text(seal({key: value for key, value in meta.items() if value is not None}))
    with pytest.raises(Damaged, match=r"meta\.json cannot be|has another size|is not as it was written"):
        PackedSplit(folder, "actions_positions")


@pytest.mark.parametrize("name", ["meta.json", "frames.npy", "cond.npy"])
def test_a_pipe_is_no_array(course, tmp_path, name):
    folder = Path(shutil.copytree(open_(course).validate.folder, tmp_path / "copy"))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(Damaged, match="not a"):
        PackedSplit(folder, "actions_positions")


def test_what_a_record_says_is_plain_json(course):
    folder = open_(course).validate.folder
    assert json.loads((folder / "meta.json").read_text())["names"] == ["traj_0/0", "traj_0/1", "traj_0/2"]
    assert np.load(folder / "frames.npy").shape == (12, 64, 64, 3)
