"""What of a run's files was damaged is named, and nothing wrong is shown of it."""

from __future__ import annotations

import json
import os
import time

import pytest
from fakes import fake_checkpoint, fake_run

from cvae import integrity
from cvae.runs.collection import collect
from cvae.runs.rows import read_rows


def read(run):
    (found,) = collect([str(run)]).runs
    return found


@pytest.fixture
def run(tmp_path):
    """A finished run of four epochs, the second the best, with sealed checkpoints."""
    run = fake_run(tmp_path / "run", (18.0, 21.0, 20.0, 19.0))
    fake_checkpoint(run, "best.pt", 2)
    fake_checkpoint(run)
    return run


def test_a_whole_run_is_finished(run):
    found = read(run)
    assert (found.state, found.problems, found.best("val/psnr")) == ("finished", [], (21.0, 2))


def test_every_flip_and_cut_of_the_rows_is_named_and_nothing_else_is_shown(run):
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    rows = read(run).rows
    ends = [place for place, sign in enumerate(whole) if sign == ord("\n")]
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        for content in (bytes(flipped), whole[:place]):
            path.write_bytes(content)
            found = read_rows(run)
            assert "metrics.jsonl" in found.damage, place
            assert (found.rows, found.checkpoint) == ((rows[:2], "best.pt") if place > ends[1] else ([], ""))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[1]", "it is no record"),
        ('{"epocj": 3}', "its epoch is None, not 3"),
        ('{"epoch": -5}', "its epoch is -5, not 3"),
        ('{"epoch": 1000000000}', "its epoch is 1000000000, not 3"),
        ('{"epoch": 2}', "its epoch is 2, not 3"),
        ('{"epoch": "3"}', "its epoch is 3, not 3"),
        ('{"epoch": true}', "its epoch is True"),
        ('{"epoch": 3.0}', "its epoch is 3.0, not 3"),
        ('{"epoch": 3, "val/psnr": "21.5"}', 'val/psnr is "21.5", not a number'),
        ('{"epoch": 3, "val/psnr": "NaN"}', 'val/psnr is "NaN", not a number'),
        ('{"epoch": 3, "val/psnr": NaN}', "val/psnr is NaN, not a number"),
        ('{"epoch": 3, "val/psnr": -Infinity}', "val/psnr is -Infinity, not a number"),
        ('{"epoch": 3, "val/psnr": null}', "val/psnr is null, not a number"),
        ('{"epoch": 3, "val/psnr": [20]}', "val/psnr is [20], not a number"),
        ('{"epoch": 3, "val/psnr": true}', "val/psnr is true, not a number"),
        ('{"epoch": 3, "huge": 1' + "0" * 400 + "}", "huge is 1000"),
        ('{"epoch": 3, "huge": 1' + "0" * 5000 + "}", "line 3"),
        ("", "line 3"),
        ("\udcff", "line 3"),
        ("[" * 30_000, "nested too deeply"),
    ],
)
def test_a_row_that_cannot_be_ends_what_is_shown(tmp_path, line, why):
    """Also of a run of version 0.1.0, whose checkpoints do not know its lines."""
    run = fake_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    (run / "metrics.jsonl").write_bytes(b"\n".join([*lines[:2], line.encode(errors="surrogateescape"), *lines[2:], b""]))
    found = read(run)
    assert (found.state, len(found.rows), found.best("val/psnr")) == ("damaged", 2, None)
    assert "line 3 of metrics.jsonl is damaged" in found.note
    assert why in found.note


def test_a_last_line_that_was_cut_off_is_no_damage(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "val/ps')
    assert (read(run).state, read(run).problems, len(read(run).rows)) == ("finished", [], 4)


def test_rows_after_the_checkpoint_are_those_of_a_run_that_was_killed(tmp_path):
    run = fake_run(tmp_path / "run", epochs=9)
    fake_checkpoint(run, lines=2)
    assert (len(read(run).rows), read(run).problems) == (3, [])


def test_lost_rows_are_missed(run):
    (run / "metrics.jsonl").unlink()
    assert (read(run).state, read(run).note) == ("damaged", "metrics.jsonl is missing")


def test_a_damaged_checkpoint_is_named_and_the_other_goes_on(tmp_path):
    run = fake_run(tmp_path / "run", (18.0, 21.0, 20.0, 19.0), epochs=9)
    fake_checkpoint(run, "best.pt", 2)
    os.truncate(fake_checkpoint(run), 40)
    for path in run.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)
    found = read(run)
    assert (found.state, len(found.rows)) == ("stopped", 4)
    assert found.note.startswith("checkpoints/last.pt is damaged (")
    assert found.resume == "python -m cvae.train resume=run checkpoint=best"


def test_a_config_that_was_edited_is_named_and_its_numbers_are_not_shown(tmp_path):
    run = fake_run(tmp_path / "run", lr=1e-3)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "config_sha256": integrity.sha256_of(run / ".hydra/config.yaml")}))
    assert read(run).state == "finished"
    config = run / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.002"))
    found = read(run)
    assert (found.state, found.rows) == ("damaged", [])
    assert ".hydra/config.yaml is not the one that the run had" in found.note


def test_a_trial_that_goes_on_has_a_config_of_its_own(tmp_path):
    run = fake_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    again = {"config_sha256": integrity.sha256_of(run / ".hydra/config.yaml")}
    (run / "run.json").write_text(json.dumps({**record, "config_sha256": "of its first start", "resumed": [again]}))
    assert read(run).state == "finished"


def test_a_record_that_was_changed_is_named(tmp_path):
    run = fake_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    text = integrity.stamped(record)
    (run / "run.json").write_text(text)
    assert read(run).state == "finished"
    (run / "run.json").write_text(text.replace('"dataset": "d"', '"dataset": "e"'))
    assert (read(run).state, read(run).note) == ("damaged", "run.json is damaged (its checksum is another)")


def test_a_record_of_other_data_than_the_checkpoint_s_is_named(tmp_path):
    run = fake_run(tmp_path / "run")
    fake_checkpoint(run, dataset="other")
    assert read(run).note == "run.json names other data than the checkpoint"


def test_more_epochs_than_the_run_should_have_are_named(tmp_path):
    run = fake_run(tmp_path / "run", epochs=2)
    assert (read(run).state, read(run).note) == ("damaged", "metrics.jsonl has 3 epochs, and the run should have 2")


def test_overrides_that_cannot_be_read_are_named_and_no_command_is_shown(tmp_path):
    run = fake_run(tmp_path / "run")
    (run / ".hydra/overrides.yaml").write_text("- a\n- [b")
    assert (read(run).state, read(run).repeat) == ("finished", "")
    assert ".hydra/overrides.yaml cannot be read" in read(run).note


def test_evaluations_of_other_versions_and_of_an_earlier_checkpoint(tmp_path):
    run = fake_run(tmp_path / "run")
    (run / "eval").mkdir()
    (run / "eval" / "short.json").write_text('{"videos": 3, "psnr": {"mean": 20.0}}')
    (run / "eval" / "odd.json").write_text('{"videos": 3, "psnr": {"mean": 20.0, "ci95": [21.0, 22.0]}}')
    for name in ("short", "odd"):
        os.utime(run / "eval" / f"{name}.json", (time.time() - 3600,) * 2)
    fake_checkpoint(run, "best.pt")
    odd, short = read(run).evaluations
    assert (short.videos, short.scores[0].mean, short.note) == (3, 20.0, "of an earlier best.pt: evaluate again")
    assert (odd.videos, "not in its interval" in odd.note) == (None, True)
