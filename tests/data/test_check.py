"""The doctor names every damage with its place, sums up what is there, and moves what is bad aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, draw_course, draw_sequence
from PIL import Image

from cvae.data import check
from cvae.data.convert.workers import Lost
from cvae.data.examine import BAD, FAILS, NOTE, Job, Seen, examine
from cvae.data.store import VideoData
from cvae.evaluation.validation import error_of, score_copy

ONE = Path("train/take 0/00")


def lines(result: Result, level: str) -> list[str]:
    return [line for line in result.out.splitlines() if line.startswith(f"{level} ")]


def test_whole_data_are_summed_up_by_the_functions_of_training(command, drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    result = command("data", "check", drawn, "--n-future", "4", "--sigma-scale", "3", "--workers", "1")
    assert result.code == 0, result.out + result.err
    assert not any(lines(result, level) for level in (FAILS, BAD, NOTE))
    assert "train     4 sequences, 120 frames (4 x 30)" in result.out
    data = VideoData(str(drawn))
    dx = data.train.cond_NA[:, 0].astype(np.float64)
    assert f"{'dx':<9}{dx.mean():>11.4g}{dx.std():>11.4g}{dx.min():>11.4g}{dx.max():>11.4g}" in result.out
    psnr, _ = score_copy(data.validate, 2, 6)
    assert f"repeating frame 1 as the next 4: {psnr:.2f} dB in validate" in result.out
    assert f"likelihood.sigma=auto would take {3 * error_of(data, 2, 6):.3g}:" in result.out
    with Image.open("contact_sheet.png") as sheet:
        first = np.asarray(sheet.convert("RGB"))[16:144:2, 130:258:2]
    assert (first == data.train.gather(np.array([0]), 0, 1)[0][0, 0]).all()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sequence for each kind of damage, each in a folder with the name of its damage, and whole ones."""
    root = tmp_path_factory.mktemp("damaged") / "course"
    draw_course(root, train=2, validate=2, test=2, frames=12)
    kinds = ["gap", "cut", "text", "size", "grey", "crc", "rows", "more rows", "columns", "nan", "no table", "short", "still"]
    kinds += ["jump", "scene", "huge", "copy", "leak", "empty"]
    for number, kind in enumerate(kinds):
        draw_sequence(root / "train" / "worse" / kind, 1000 + number, frames=5 if kind == "short" else 12)
    bad = root / "train" / "worse"
    (bad / "gap" / "3.png").unlink()
    content = (bad / "cut" / "4.png").read_bytes()
    (bad / "cut" / "4.png").write_bytes(content[: len(content) // 2])
    (bad / "cut" / "7.png").write_bytes(b"")
    (bad / "text" / "5.png").write_text("not a picture")
    Image.new("RGB", (65, 64)).save(bad / "size" / "1.png")
    for t in (2, 6):
        with Image.open(bad / "grey" / f"{t}.png") as image:
            grey = image.convert("L")
        grey.save(bad / "grey" / f"{t}.png")
    content = (bad / "crc" / "0.png").read_bytes()
    at = content.index(b"IDAT") - 4
    end = at + 8 + int.from_bytes(content[at : at + 4], "big")
    (bad / "crc" / "0.png").write_bytes(content[:end] + bytes(byte ^ 1 for byte in content[end : end + 4]) + content[end + 4 :])
    table = (bad / "rows" / "actions.csv").read_text().splitlines()
    (bad / "rows" / "actions.csv").write_text("\n".join(table[:7]))
    (bad / "more rows" / "actions.csv").write_text("\n".join([*table, table[0]]))
    (bad / "columns" / "actions.csv").write_text("\n".join([*table[:3], "1,2,3", *table[4:]]))
    (bad / "nan" / "endeffector_positions.csv").write_text("1,2,nan\n" * 12)
    (bad / "no table" / "endeffector_positions.csv").unlink()
    for t in range(1, 12):
        shutil.copyfile(bad / "still" / "0.png", bad / "still" / f"{t}.png")
    places = np.loadtxt(bad / "jump" / "endeffector_positions.csv", delimiter=",")
    places[6, 0] += 30
    np.savetxt(bad / "jump" / "endeffector_positions.csv", places, delimiter=",")
    Image.new("RGB", (64, 64), (0, 0, 255)).save(bad / "scene" / "8.png")
    actions = np.loadtxt(bad / "huge" / "actions.csv", delimiter=",")
    actions[3, 1] = 1e30
    np.savetxt(bad / "huge" / "actions.csv", actions, delimiter=",")
    for kind, source in (("copy", root / ONE), ("leak", next((root / "test" / "take 0").iterdir()))):
        shutil.rmtree(bad / kind)
        shutil.copytree(source, bad / kind)
    shutil.rmtree(bad / "empty")
    (bad / "empty").mkdir()
    (root / "validate" / "lost").symlink_to(root / "nowhere")
    return root


NAMED = {
    FAILS: {
        "gap": ("gap/3.png is missing",),
        "cut": ("cut/4.png is not a readable PNG", "cut off in the chunk"),
        "crc": ("crc/0.png is not a readable PNG (chunk 'IDAT' at byte", "fails its CRC"),
        "text": ("text/5.png is not a readable PNG",),
        "size": ("size/1.png is 65x64",),
        "rows": ("rows/actions.csv has 7 rows for 12 frames",),
        "columns": ("columns/actions.csv row 4 has 3 columns",),
        "nan": ("nan/endeffector_positions.csv row 1 holds 'nan'",),
        "no table": ("train/worse/no table has no endeffector_positions.csv",),
        "short": ("train/worse/short has 5 frames where 2 + 10 = 12 are needed",),
    },
    BAD: {
        "jump": ("train/worse/jump frame 6: x jumps by 30",),
        "scene": ("train/worse/scene frame 8: the picture jumps",),
        "huge": ("train/worse/huge frame 3: dy is 1e+30",),
        "copy": ("train/worse/copy is a copy of", "take 0/00"),
        "leak": ("train/worse/leak recurs in test/take 0/00: 12 of its 12",),
    },
    NOTE: {
        "grey": ("grey/2.png: 2 frames are L, not RGB",),
        "more rows": ("more rows/actions.csv has 13 rows for 12 frames",),
        "still": ("still: all 12 frames are the same",),
        "empty": ("empty is not read as a sequence: no frames",),
        "lost": ("validate/lost is not read as a sequence: a link to nothing",),
    },
}


def test_every_damage_is_named(command, damaged):
    result = command("data", "check", damaged, "--sheet", "", "--workers", "1")
    assert result.code == 1
    for level, kinds in NAMED.items():
        said = lines(result, level)
        for kind, words in kinds.items():
            assert any(all(word in line for word in words) for line in said), (level, kind, said)
    assert sum("/cut/" in line for line in lines(result, FAILS)) == 2  # each file of a sequence
    others = (line for line in result.out.splitlines() if "/copy " not in line and "/leak " not in line)
    assert "take 0/00" not in "".join(others)
    assert "training would fail" in result.out


@pytest.mark.slow
def test_packed_data_are_looked_at_as_well(command, drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "cache"))
    data, root = VideoData(str(drawn)), tmp_path / "packed"
    for split in ("train", "validate", "test"):
        shutil.copytree(getattr(data, split).folder, root / split)
    whole = command("data", "check", root, "--sheet", "", "--workers", "1")
    assert whole.code == 0, whole.out + whole.err
    assert f"repeating frame 1 as the next 10: {score_copy(data.validate, 2, 12)[0]:.2f} dB in validate" in whole.out
    with (root / "train" / "frames.npy").open("r+b") as file:
        file.seek(-64 * 64 * 3, os.SEEK_END)
        file.write(b"damaged")
    (root / "test" / "cond.npy").write_bytes(b"")
    result = command("data", "check", root, "--sheet", "", "--workers", "1")
    assert result.code == 1
    said = lines(result, FAILS)
    assert len(said) == 1
    assert "frames.npy is damaged in sequence take 1/03" in said[0]
    assert "test is damaged (cond.npy has another size)" in lines(result, NOTE)[0]
    assert "train     3 sequences" in result.out


def test_data_without_conditions_have_no_table(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (3, 12, 64, 64, 3), dtype=np.uint8)
    (tmp_path / "arrays").mkdir()
    for split in ("train", "validate"):
        np.savez(tmp_path / "arrays" / f"{split}.npz", frames=frames)
    assert command("data", "convert", "arrays", "packed").code == 0
    result = command("data", "check", "packed", "--sheet", "", "--workers", "1")
    assert result.code == 0, result.out + result.err
    assert "no actions and no positions: the model predicts from frames alone" in result.out
    assert "deviation" not in result.out


def test_a_file_that_ends_its_reader_is_named(command, drawn, monkeypatch):
    def lost(task: object, jobs: list[Job], workers: int) -> Iterator[Seen | Lost]:
        yield Lost("the program that reads it was ended by SIGSEGV")
        yield from (examine(job, lambda: None) for job in jobs[1:])

    monkeypatch.setattr(check, "each_in_processes", lost)
    result = command("data", "check", drawn, "--sheet", "")
    assert result.code == 1
    assert lines(result, FAILS) == [f"fails {drawn / ONE} cannot be read: the program that reads it was ended by SIGSEGV"]


@pytest.mark.slow
def test_bad_sequences_are_moved_aside_and_none_is_lost(command, damaged, tmp_path):
    root = tmp_path / "course"
    shutil.copytree(damaged, root, symlinks=True)
    before = {path.relative_to(root) for path in root.rglob("*.png")}
    result = command("data", "check", root, "--fix", "quarantine", "--sheet", "", "--workers", "1")
    assert result.code == 0, result.out + result.err
    bad = {*NAMED[FAILS], *NAMED[BAD]}
    aside = root / "quarantine" / "train" / "worse"
    assert {path.name for path in aside.iterdir()} == bad
    moved = {Path("train/worse") / path.relative_to(aside) for path in aside.rglob("*.png")}
    kept = {path.relative_to(root) for split in ("train", "validate", "test") for path in (root / split).rglob("*.png")}
    assert moved | kept == before
    reasons = (root / "quarantine" / "reasons.txt").read_text().splitlines()
    assert len(reasons) == len(bad)
    assert any(line.startswith("train/worse/cut: ") and "cut/7.png" in line for line in reasons)
    assert "training can read what is there" in result.out
    VideoData(str(root), cache_dir=str(tmp_path / "cache")).train.gather(np.array([0]), 0, 12)
