"""A conversion that was stopped goes on where it was; what is not its own is refused."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from tfrecords import draw_bair

from cvae.data.convert import command, work
from cvae.data.converted import PackedData

SHORT = ("--shortest", "3")
Convert = Callable[..., Result]


class Killed(BaseException):
    """Stands for kill -9: nothing of the command runs after it."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_bair(tmp_path_factory.mktemp("bair"), train=(33, 2))


def content(root: str) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def killed_after(episodes: int, convert: Convert, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Begin, and die while the next episode is put in place: its bytes are there, its line is not."""
    usual = work.Work.note
    count = [episodes]

    def note(self: work.Work, entry: dict[str, Any]) -> None:
        count[0] -= 1
        if count[0] < 0:
            raise Killed
        usual(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(work.Work, "note", note)
        with pytest.raises(Killed):
            convert(*words)


@pytest.mark.parametrize("to", ["packed", "png"])
def test_it_goes_on(to: str, source: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*SHORT, "--to", to)
    assert convert(source, "whole", *words).code == 0
    for episodes in (0, 3, 30):  # the last one in the middle of the second chunk of 32
        killed_after(episodes, convert, monkeypatch, source, "D", *words)
        assert not Path("D/train").exists()  # nothing that looks like a data set
    with Path("D/.convert/journal.jsonl").open("a") as journal:
        journal.write('{"split": "tr')  # a line cut by a kill
    result = convert(source, "D", *words)
    assert result.code == 0, result.err
    assert "33 of 37 episodes are converted already" in result.out
    assert content("D") == content("whole")


@pytest.mark.parametrize("moves", range(4))
def test_killed_at_the_end(moves: int, source: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    assert convert(source, "whole", *SHORT).code == 0
    usual, left = Path.rename, [moves]

    def rename(self: Path, target: Path) -> Path:
        if self.parent.name == ".convert" and self.name != "plan.partial":
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        return usual(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            convert(source, "D", *SHORT)
    assert convert(source, "D", *SHORT).code == 0
    assert content("D") == content("whole")
    Path("D/.convert/parts").mkdir(parents=True)  # as if it had been killed while it was removed
    assert "holds this conversion already" in convert(source, "D", *SHORT).out
    assert content("D") == content("whole")


def test_an_unfinished_one_is_not_read(source: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(5, convert, monkeypatch, source, "D", *SHORT)
    from cvae.errors import UserError

    with pytest.raises(UserError, match="not converted to its end"):
        PackedData("D").check()


def test_other_plans_are_refused(source: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killed_after(5, convert, monkeypatch, source, "D", *SHORT)
    assert "the beginning of another conversion (to was 'packed', is 'png')" in convert(source, "D", *SHORT, "--to", "png").err
    other = draw_bair(tmp_path / "other", train=(36, 2))
    assert "the beginning of another conversion (files was" in convert(other, "D", *SHORT).err
    with Path("D/.convert/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "by another process: wait for it" in convert(source, "D", *SHORT).err
    with Path("D/.convert/train/frames.npy").open("r+b") as file:
        file.truncate(1000)
    assert "frames.npy is shorter than it was" in convert(source, "D", *SHORT).err


def test_a_folder_of_something_else_is_left_alone(source: Path, convert: Convert) -> None:
    Path("D").mkdir()
    Path("D/thesis.txt").write_text("years of work")
    assert "holds something else already: give a new folder" in convert(source, "D", *SHORT).err
    assert content("D") == {"thesis.txt": b"years of work"}


def test_a_full_disk_stops_it_and_is_no_fault_of_the_file(
    source: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    from cvae.data.convert.sinks import Convert as Task

    with monkeypatch.context() as patch:
        patch.setattr(Task, "_raw", full)
        result = convert(source, "D", *SHORT, "--on-error", "skip")
    assert result.code == 1
    assert "No space left on device" in result.err
    assert convert(source, "D", *SHORT).code == 0


def test_a_crash_is_a_named_file(source: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    from cvae.data.convert.workers import Lost

    def lose_one(task: Callable, jobs: list, workers: int | None) -> Iterator[object]:
        for number, job in enumerate(jobs):
            outcome = task(job, lambda: None)
            yield Lost("the program that reads it was ended by SIGSEGV") if number == 4 else outcome

    for to in ("packed", "png"):
        with monkeypatch.context() as patch:
            patch.setattr("conftest._in_this_process", lose_one)
            patch.setattr(command, "each_in_processes", lose_one)
            result = convert(source, to, *SHORT, "--to", to, "--on-error", "skip")
        assert result.code == 0
    said = [json.loads(Path(f"{to}/dataset.json").read_text())["left_out"] for to in ("packed", "png")]
    assert said[0] == said[1]
    assert len(said[0]) == 1
    assert said[0][0].endswith(": the program that reads it was ended by SIGSEGV")
    from cvae.data.store import VideoData

    assert PackedData("packed").fingerprint == VideoData("png", workers=1).fingerprint
