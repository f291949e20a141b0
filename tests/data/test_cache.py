"""Folders that are made once, and the worker processes that make them: nothing half done, nobody left behind."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import cvae
from cvae.data.cache import cache_root, make_once
from cvae.data.pool import map_in_processes
from cvae.errors import UserError

REPOSITORY = Path(cvae.__file__).parents[1]


def python(script: str, *words: object) -> subprocess.Popen[str]:
    """A process of its own that runs ``script``; output goes to a pipe that no worker keeps open."""
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 400
    while not true():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def left_in(folder: Path) -> set[str]:
    """What is there, apart from the lock: taking it away would let two hold it."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def fill(folder: Path) -> None:
    (folder / "data").write_text("whole")


# --------------------------------------------------------------------------------------------------- make_once


def test_a_folder_is_made_whole_and_once(tmp_path):
    target, built = tmp_path / "deep" / "target", []

    def build(folder: Path) -> None:
        built.append(folder.stat().st_ino)
        assert not target.exists()  # nobody sees it before it is whole
        fill(folder)

    for _ in range(2):
        make_once(target, build)
    assert (target / "data").read_text() == "whole"
    assert built == [target.stat().st_ino]  # renamed, which is atomic, not copied
    assert left_in(target.parent) == {"target"}


def test_a_folder_that_is_not_complete_is_made_anew(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("")
    make_once(target, fill, complete=lambda folder: (folder / "data").exists())
    assert left_in(target) == {"data"}


def test_threads_at_once_make_it_once(tmp_path):
    built, ready, failed = [], threading.Barrier(4), []

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.05)
        fill(folder)

    def run() -> None:
        ready.wait()
        try:
            make_once(tmp_path / "target", build)
            assert (tmp_path / "target/data").exists()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(built) == 1


SLOW = """
import sys, time
from pathlib import Path
from cvae.data.cache import make_once

def build(folder):
    print("building", flush=True)
    (folder / "data").write_text("half")
    time.sleep(float(sys.argv[2]))
    (folder / "data").write_text("whole")

make_once(Path(sys.argv[1]), build)
print((Path(sys.argv[1]) / "data").read_text())
"""


def test_processes_at_once_make_it_once(tmp_path):
    processes = [python(SLOW, tmp_path / "target", 0.3) for _ in range(3)]
    said = [process.communicate(timeout=400)[0] for process in processes]
    assert sorted(said) == ["building\nwhole\n", "whole\n", "whole\n"]
    assert left_in(tmp_path) == {"target"}


def test_a_killed_process_leaves_nothing_that_the_next_one_does_not_remove(tmp_path):
    process = python(SLOW, tmp_path / "target", 60)
    wait_until(lambda: any(tmp_path.glob(".target.*/data")), process)
    process.kill()
    process.communicate()
    (other,) = left_in(tmp_path)
    assert other != "target"
    make_once(tmp_path / "target", fill)
    assert left_in(tmp_path) == {"target"}


def test_the_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / ".another.1.partial").mkdir()
    (tmp_path / "targets").mkdir()
    make_once(tmp_path / "target", fill)
    assert left_in(tmp_path) == {".another.1.partial", "targets", "target"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, UserError, AssertionError, RuntimeError, OSError])
@pytest.mark.parametrize("before", ["nothing", "incomplete"])
def test_nothing_is_left_when_building_fails(tmp_path, error, before):
    """An error that has nothing to do with writing stays what it is; a failed write is told as such."""
    target = tmp_path / "target"
    if before == "incomplete":
        target.mkdir()

    def build(folder: Path) -> None:
        fill(folder)
        raise error("the reason")

    with pytest.raises(UserError if error is OSError else error):
        make_once(target, build, complete=lambda folder: (folder / "data").exists())
    assert left_in(tmp_path) == ({"target"} if before == "incomplete" else set())
    make_once(target, fill, complete=lambda folder: (folder / "data").exists())
    assert left_in(tmp_path) == {"target"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_failed_write_names_the_place_and_the_reason(tmp_path, number):
    def build(folder: Path) -> None:
        raise OSError(number, os.strerror(number), str(folder / "data"))

    with pytest.raises(UserError) as caught:
        make_once(tmp_path / "target", build)
    for part in (str(tmp_path / "target"), os.strerror(number), "data.cache_dir"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "partial" not in str(caught.value)


def test_a_place_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/target"):
        make_once(tmp_path / "file" / "target", fill)


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_system_without_locks_is_good_enough(tmp_path, monkeypatch, count):
    """Several may make it at once, each in a folder of its own; nobody takes away what another works in."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    ready, failed = threading.Barrier(count), []

    def build(folder: Path) -> None:
        fill(folder)
        ready.wait(60)

    def run() -> None:
        try:
            make_once(tmp_path / "target", build, lambda folder: (folder / "data").exists())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert left_in(tmp_path) == {"target"}
    assert (tmp_path / "target/data").read_text() == "whole"


# -------------------------------------------------------------------------------------------------- cache_root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable is set, and home and the temporary folder are empty."""
    for name in ("CVAE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "file").write_text("")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("argument", "variables", "expected"),
    [
        ("given", {"CVAE_CACHE": "c", "XDG_CACHE_HOME": "x"}, "given"),
        (None, {"CVAE_CACHE": "c", "XDG_CACHE_HOME": "x"}, "c"),
        (None, {"XDG_CACHE_HOME": "x"}, "x/cvae"),
        (None, {}, "home/.cache/cvae"),
        (None, {"CVAE_CACHE": "", "XDG_CACHE_HOME": ""}, "home/.cache/cvae"),
        ("~/mine", {}, "home/mine"),
        (None, {"CVAE_CACHE": "~/mine"}, "home/mine"),
    ],
)
def test_where_the_cache_is(home, monkeypatch, argument, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    path = cache_root(argument)
    assert path == home.parent / expected
    assert path.is_dir()


@pytest.mark.parametrize("variables", [{"XDG_CACHE_HOME": "file/x"}, {"HOME": "file/home"}], ids=str)
def test_a_default_that_cannot_be_written_to_gives_way_to_the_temporary_folder(home, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(home.parent / value))
    path = cache_root()
    assert path.parent == home.parent / "temporary"
    assert path.is_dir()


@pytest.mark.parametrize(
    ("argument", "variable"), [("file/x", None), ("file", None), (None, "file/x"), ("~no-such-user/x", None)]
)
def test_a_chosen_place_that_cannot_be_written_to_is_named(home, monkeypatch, argument, variable):
    if variable:
        monkeypatch.setenv("CVAE_CACHE", variable)
    with pytest.raises(UserError) as caught:
        cache_root(argument)
    for part in (argument or variable, "data.cache_dir", "CVAE_CACHE"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any((home.parent / "temporary").iterdir())


def test_no_place_at_all_is_named(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "file/x")
    monkeypatch.setattr(tempfile, "tempdir", str(home.parent / "file"))
    with pytest.raises(UserError, match=r"file/x/cvae and .*file/cvae-\d+ cannot be written to: set data.cache_dir"):
        cache_root()


def test_what_another_user_put_into_the_temporary_folder_is_not_taken(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "file/x")
    place = home.parent / f"temporary/cvae-{os.getuid()}"
    (home.parent / "theirs").mkdir()
    place.symlink_to(home.parent / "theirs")
    with pytest.raises(UserError, match=r"file/x/cvae cannot be written to"):
        cache_root()
    place.unlink()
    assert cache_root() == place


# ------------------------------------------------------------------------------------------- map_in_processes
# Jobs stand here by name: a worker process imports them.


def process_of(job: int) -> tuple[int, int]:
    return job, os.getpid()


def meet(job: tuple[int, Path]) -> tuple[int, int]:
    """Wait for another process to come here too; the first job is done last."""
    number, folder = job
    (folder / str(os.getpid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    time.sleep(0.1 if number == 0 else 0)
    return number, os.getpid()


def fail_at_one(job: int) -> int:
    if job == 1:
        raise UserError("file 1 is bad")
    return job


def die_at_one(job: int) -> int:
    if job == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_results_come_in_order_from_several_processes(tmp_path):
    done = list(map_in_processes(meet, [(number, tmp_path) for number in range(5)], 2))
    assert [number for number, _ in done] == [0, 1, 2, 3, 4]
    assert len({pid for _, pid in done} - {os.getpid()}) == 2
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("jobs", "workers"), [([4, 2], 1), ([3], 4), ([], 4), ([], None)])
def test_one_worker_or_one_job_needs_no_other_process(jobs, workers):
    assert list(map_in_processes(process_of, jobs, workers)) == [(job, os.getpid()) for job in jobs]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_passes_through(workers):
    with pytest.raises(UserError, match=r"^file 1 is bad$"):
        list(map_in_processes(fail_at_one, [0, 1, 2, 3], workers))
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_one_line_with_a_mend():
    with pytest.raises(UserError, match=r"worker process was killed: .*data\.workers=1") as caught:
        list(map_in_processes(die_at_one, [0, 1, 2, 3], 2))
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def pack_in_a_loaders_worker(folder: Path) -> None:
    (folder / "said").write_text(str(list(map_in_processes(process_of, [1, 2, 3], 2)) == [(n, os.getpid()) for n in (1, 2, 3)]))


@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_a_daemon_that_may_have_no_children_works_alone(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=pack_in_a_loaders_worker, args=(tmp_path,), daemon=True)
    process.start()
    process.join(120)
    assert (tmp_path / "said").read_text() == "True"


def test_no_worker_runs_on_when_the_caller_fails():
    """Not until some collection of garbage: the caller removes the folder that they write to next."""

    def consume() -> None:
        for _ in map_in_processes(process_of, range(50), 2):
            assert len(multiprocessing.active_children()) == 2
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert multiprocessing.active_children() == []


BUSY = """
import os, sys, time
from pathlib import Path

def work(job):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    from cvae.data.pool import map_in_processes
    print(*map_in_processes(work, [1, 2, 3], 2))
"""


def running(pid: int) -> bool:
    """Whether it runs: who is dead but not buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_no_worker_outlives_a_killed_parent(tmp_path):
    (tmp_path / "pids").mkdir()
    (tmp_path / "busy.py").write_text(BUSY)
    command = [sys.executable, str(tmp_path / "busy.py"), str(tmp_path / "pids")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    wait_until(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert process.pid not in workers
    assert all(map(running, workers))
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(running, workers)))
