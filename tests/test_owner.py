"""A run folder has one writer: a second process is refused, a dead one is replaced by one alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import tiny

from cvae import owner
from cvae.errors import UserError
from cvae.owner import LEASE, NAME, InUse, hold
from cvae.process import Process

HOLDER = """
import sys, time
from pathlib import Path
from cvae.owner import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def write(folder: Path, process: Process, until: float, token: str = "abc", name: str = NAME) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({**asdict(process), "until": until, "token": token}))


def elsewhere() -> Process:
    return replace(Process.of(), host="node7 boot pid:[1]", pid=4711)


def dead() -> Process:
    return replace(Process.of(), started=-1e6)


def names(folder: Path | str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


@pytest.fixture
def holder(tmp_path):
    """Another process that owns RUN."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_the_next_start_after_a_kill_goes_on_at_once(tmp_path, holder, train, drawn):
    line = f"run is in use by process {holder.pid} on {Process.of().host.split()[0]}: wait until it has ended, or stop it"
    with pytest.raises(InUse, match=line), hold(tmp_path / "run"):
        pass
    result = train(*tiny(drawn), "hydra.run.dir=run")  # before Hydra writes its config there
    assert (result.code, result.err) == (1, f"error: {line}\n")
    assert names("run") == [NAME]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path / "run"):
        assert json.loads(Path("run/owner.json").read_text())["pid"] == os.getpid()


def test_it_is_released_at_the_end_and_on_errors(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "run"):
        1 / (owner.held(tmp_path / "run") is None)
    assert not (tmp_path / "run").exists()  # it was made for nothing
    (tmp_path / "run").mkdir()
    with hold(tmp_path / "run") as mine, hold(tmp_path / "sub" / ".." / "run") as again:
        assert mine is again
        mine.release()  # at once, as a run does that a scheduler starts elsewhere
        assert names(tmp_path / "run") == []
    assert owner.held(tmp_path / "run") is None


def test_an_owner_on_another_host_counts_as_lost_without_a_sign_of_life(tmp_path):
    write(tmp_path / "run", elsewhere(), time.time() + 60)
    with pytest.raises(InUse, match=r"process 4711 on node7: .*lost in (59|60) s; start again then, or remove run/owner.json"):
        owner._take(tmp_path / "run")
    write(tmp_path / "run", elsewhere(), time.time() - 1)
    with hold(tmp_path / "run"):
        pass


@pytest.mark.slow
def test_a_trials_job_waits_for_the_end_of_a_lease_and_not_for_a_living_owner(tmp_path, monkeypatch, capfd):
    write(tmp_path / "run", elsewhere(), time.time() + 1.5)
    with hold(tmp_path / "run", patient=True):
        pass
    assert "counts as lost in" in capfd.readouterr().out
    write(tmp_path / "run", elsewhere(), time.time() + 60)
    monkeypatch.setattr(time, "sleep", lambda _: write(tmp_path / "run", elsewhere(), time.time() + 70))  # it lives
    with pytest.raises(InUse), hold(tmp_path / "run", patient=True):
        pass
    write(tmp_path / "run", Process.of(os.getppid()), 0.0)
    with pytest.raises(InUse), hold(tmp_path / "run", patient=True):
        pass


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("first", ["nobody", "dead", "expired", "dead between its two steps"])
def test_of_many_that_come_at_once_one_wins(tmp_path, monkeypatch, first, links):
    if not links:

        def link(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "no hard links here")

        monkeypatch.setattr(os, "link", link)
    folder = tmp_path / "run"
    folder.mkdir()
    if first == "expired":
        write(folder, elsewhere(), 0.0)
    elif first != "nobody":
        write(folder, dead(), time.time() + 60)
    if first == "dead between its two steps":
        write(folder, dead(), 0.0, token="def", name=".owner.after-abc")
    won, refused, together = [], [], threading.Barrier(8)

    def claim() -> None:
        together.wait()
        try:
            won.append(owner._take(folder))
        except InUse as error:
            refused.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].check()
    assert names(folder) == [NAME]
    won[0].release()
    assert names(folder) == []


def test_who_was_taken_over_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_BEAT", 0.01)
    with hold(tmp_path / "run") as mine:
        mine.check()
        write(tmp_path, elsewhere(), time.time() + 60, name="new")
        (tmp_path / "new").rename(tmp_path / "run" / NAME)  # as one that finds a dead owner
        mine._thread.join(timeout=400)
        for look in (True, False):
            with pytest.raises(UserError, match="run was taken over by process 4711 on node7: this process"):
                mine.check(look)
    assert (tmp_path / "run" / NAME).exists()  # the other's


def test_a_run_that_was_taken_over_stops_in_one_line_and_writes_no_more(train, drawn, monkeypatch):
    from cvae.training.trainer import Trainer

    step, steps = Trainer.step, iter(range(9))

    def taken(self, *batch):
        if next(steps) == 2:  # in the second epoch
            write(Path(), elsewhere(), time.time() + 60, name="new")
            Path("new").rename(Path("run", NAME))
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "step", taken)
    result = train(*tiny(drawn), "hydra.run.dir=run")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "run was taken over by process 4711 on node7: this process writes no more there" in result.err
    assert Path("run/metrics.jsonl").read_text().count("\n") == 1
    assert not Path("run/curves.png").exists()
    assert not Path("run/failure.txt").exists()
    assert Path("run", NAME).exists()


def test_a_sign_of_life_moves_the_end_of_the_lease_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_BEAT", 0.01)
    path = tmp_path / "run" / NAME
    with hold(tmp_path / "run"):
        inode, first = path.stat().st_ino, json.loads(path.read_text())["until"]
        deadline = time.monotonic() + 400
        while json.loads(path.read_text())["until"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert path.stat().st_ino == inode
        assert json.loads(path.read_text())["until"] < time.time() + LEASE + 1


@pytest.mark.parametrize(
    "content", ["", "[]", '{"host": 3}', "\xff", "[" * 9999, '{"host": "", "pid": -1, "started": 0}', None]
)
def test_an_owner_that_cannot_be_read_expires_too(tmp_path, content):
    path = tmp_path / "run" / NAME
    path.parent.mkdir()
    path.write_text(content) if content is not None else os.mkfifo(path)
    with pytest.raises(InUse, match=r"whoever wrote its owner\.json: without a sign of life .* counts as lost in"):
        owner._take(tmp_path / "run")
    os.utime(path, (time.time() - LEASE - 1,) * 2)
    owner._take(tmp_path / "run").release()


def test_a_link_that_leads_nowhere_does_not_hold_it_up_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_TRIES", 3)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.owner.after-nobody").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"cannot be owned: remove owner\.json and \.owner\.\* there"):
        owner._take(tmp_path / "run")


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*owner\.json"), hold(tmp_path / "file" / "run"):
        pass


def test_a_run_leaves_no_owner_and_stops_where_it_was_taken_over(train, drawn, monkeypatch):
    assert train(*tiny(drawn), "hydra.run.dir=run").code == 0
    assert not Path("run", NAME).exists()
    assert train("resume=run").code == 0
    assert not Path("run", NAME).exists()
    write(Path("run"), elsewhere(), time.time() + 60)
    before = Path("run/metrics.jsonl").read_bytes()
    result = train("resume=run", "checkpoint=best")
    assert (result.code, "process 4711 on node7" in result.err, result.err.count("\n")) == (1, True, 1)
    assert Path("run/metrics.jsonl").read_bytes() == before
