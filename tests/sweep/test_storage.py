"""A study's file outlives killed writers and full disks; passwords stay out of sight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import OperationalError, PendingRollbackError

from cvae.errors import UserError
from cvae.sweep import storage
from cvae.sweep.storage import absolute, hidden, hide, open_storage, revealed

WRITER = """
import sys, optuna
from cvae.sweep.storage import open_storage
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(study_name="s", storage=open_storage(sys.argv[1]), load_if_exists=True)
for number in range(int(sys.argv[2])):
    trial = study.ask()
    study.tell(trial, trial.suggest_float("x", 0, 1))
    print(trial.number, flush=True)
"""


def write(url: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, url, str(count)], stdout=subprocess.PIPE, text=True)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.delenv("CVAE_STORAGE", raising=False)


@pytest.mark.slow
def test_several_processes_lose_nothing() -> None:
    url = absolute("journal://studies/one.journal")
    writers = [write(url, 25) for _ in range(3)]
    told = [int(line) for writer in writers for line in writer.communicate(timeout=400)[0].split()]
    assert sorted(told) == list(range(75))
    trials = optuna.load_study(study_name="s", storage=open_storage(url)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 75


def test_a_killed_writer_stops_nobody_and_loses_nothing_it_was_told() -> None:
    url = absolute("journal://one.journal")
    told: list[int] = []
    for pause in (0.0, 0.013, 0.031):
        writer = write(url, 10_000)
        assert writer.stdout is not None
        told.append(int(writer.stdout.readline()))
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        told += [int(line) for line in writer.communicate()[0].split()]
    began = time.monotonic()
    study = optuna.load_study(study_name="s", storage=open_storage(url))
    study.tell(study.ask(), 0.5)
    assert time.monotonic() - began < 5
    complete = {trial.number for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE}
    assert set(told) <= complete


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_torn_last_line_is_cut_off(when: str) -> None:
    path = Path("torn.journal").absolute()
    url = f"journal://{path}"

    def tear() -> None:
        with path.open("ab") as file:
            file.write(b'{"op_code":4,"work')

    study = optuna.create_study(study_name="s", storage=open_storage(url))
    study.tell(study.ask(), 1.0)
    tear()
    if when == "before it is opened":
        study = optuna.load_study(study_name="s", storage=open_storage(url))
    study.tell(study.ask(), 2.0)
    again = optuna.load_study(study_name="s", storage=open_storage(url))
    assert [trial.value for trial in again.trials] == [1.0, 2.0]
    assert b'{"op_code":4,"work' not in path.read_bytes().replace(b'{"op_code":4,"worker', b"")


def test_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert absolute("journal://a/b.journal") == f"journal://{tmp_path}/a/b.journal"
    assert absolute("journal:///a/b.journal") == "journal:///a/b.journal"
    assert absolute("sqlite:///a.db") == f"sqlite:///{Path.cwd() / 'a.db'}"
    monkeypatch.chdir("/")
    assert absolute(f"journal://{tmp_path}/b") == f"journal://{tmp_path}/b"


def test_sqlite_works_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    study.tell(study.ask(), 1.0)
    assert optuna.load_study(study_name="s", storage=open_storage(url)).best_value == 1.0


SECRET = "postgresql://ann:s3cret@localhost:1/studies"


def test_a_password_behind_a_question_mark_is_refused() -> None:
    with pytest.raises(UserError, match="PGPASSWORD") as caught:
        hidden("postgresql://localhost/studies?user=ann&password=s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.slow
def test_a_job_waits_for_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 1.5)
    began = time.monotonic()
    with pytest.raises(UserError, match="cannot be opened"):
        storage.patient(open_storage)("postgresql://ann@127.0.0.1:9/studies")
    assert time.monotonic() - began > 1.5


@pytest.mark.parametrize(
    "reason",
    [OperationalError("SELECT", {}, ConnectionRefusedError()), PendingRollbackError("it broke in a transaction")],
    ids=lambda reason: type(reason).__name__,
)
def test_every_method_of_a_database_waits_for_it(reason: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_storage("sqlite:///one.db")
    calls: list[str] = []

    def away_once(self: RDBStorage, study_id: int) -> str:
        calls.append("asked")
        if len(calls) == 1:
            raise StorageInternalError("no answer") from reason
        return "s"

    monkeypatch.setattr(RDBStorage, "get_study_name_from_id", away_once)
    assert opened.get_study_name_from_id(0) == "s"
    assert len(calls) == 2


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://u@127.0.0.1:1/db?passwd=s3cret",
        "postgresql://u:s3cret@h:abc/db",
        "postgresql://u:s3cret/db",
        "postgresql://u:pa@s3cret@h:5432/db",
        "postgresql://h/db?sslPassword=s3cret",
    ],
)
def test_a_url_that_cannot_be_read_shows_nothing_of_its_password(url: str) -> None:
    with pytest.raises(UserError, match="storage") as raised:
        hidden(url)
    assert "s3cret" not in str(raised.value)


def test_a_password_is_hidden_and_found_again_by_a_child() -> None:
    shown = hide(SECRET)
    assert "s3cret" not in shown
    assert shown == hidden(SECRET) == "postgresql://ann:***@localhost:1/studies"
    code = f"from cvae.sweep.storage import revealed; print(revealed({shown!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == SECRET
    assert revealed("sqlite:///a.db") == "sqlite:///a.db"
    assert hide("journal:///a") == "journal:///a"


def test_a_password_that_is_not_known_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("", "postgresql://bob:other@elsewhere/studies"):
        monkeypatch.setenv(storage._VARIABLE, other)
        with pytest.raises(UserError, match="PGPASSWORD"):
            revealed(hidden(SECRET))


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("studies", ("not a URL", "journal://")),
        ("journal://", ("names no file",)),
        ("journal:///proc/1/nowhere/a", ("journal:///proc/1/nowhere/a",)),
        ("sqlite:////nowhere/at/all.db", ("sqlite:////nowhere/at/all.db",)),
        ("journal:///dev/full", ("journal:///dev/full", "not a regular file")),
        ("oddsql://host/db", ("oddsql://host/db",)),
    ],
)
def test_what_cannot_be_opened_is_one_line(url: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        open_storage(url)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_shows_no_password() -> None:
    with pytest.raises(UserError) as caught:
        open_storage(SECRET)
    assert "s3cret" not in str(caught.value)
