"""The servers that sweeps are tested on do what the tests take for granted."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import optuna
import pytest
import servers
import sqlalchemy
from servers import Postgres, Slurm

from cvae.errors import UserError
from cvae.sweep.storage import open_storage

pytestmark = pytest.mark.servers


def ask(url: str, question: str = "SELECT 6 * 7") -> object:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text(question)).scalar()
    finally:
        engine.dispose()


def test_postgres_answers_and_every_database_is_its_own(postgres: Postgres) -> None:
    one, other = postgres.database(), postgres.database()
    tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'studies'"
    open_storage(one)
    assert (ask(one, tables), ask(other, tables), ask(postgres.url, tables)) == (1, 0, 0)


def test_a_study_outlives_a_restart_of_postgres(postgres: Postgres) -> None:
    storage = open_storage(postgres.database())
    study = optuna.create_study(study_name="s", storage=storage)
    study.tell(study.ask(), 1.0)
    began = time.monotonic()
    postgres.restart(pause=0.5)
    assert time.monotonic() - began > 0.5
    study.tell(study.ask(), 2.0)
    assert [trial.value for trial in study.trials] == [1.0, 2.0]


def test_a_stopped_postgres_refuses_and_comes_back(postgres: Postgres) -> None:
    url = postgres.database()
    postgres.stop()
    with pytest.raises(UserError, match="refused"):
        open_storage(url)
    postgres.start()
    assert ask(url) == 42


def test_a_role_needs_its_password(postgres: Postgres) -> None:
    url = postgres.database(secret=True)
    assert ask(url, "SELECT current_user") == "secret"
    with pytest.raises(UserError, match="authentication failed") as caught:
        open_storage(url.replace(Postgres.PASSWORD, "wr0ng"))
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(("run", "package"), [(servers.run_postgres, "postgresql"), (servers.run_slurm, "slurmd")])
def test_absent_servers_are_skipped_but_not_in_ci(run, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_postgres_programs", lambda: None)
    monkeypatch.setattr(servers.shutil, "which", lambda *_, **__: None)
    for value, outcome in [("", pytest.skip.Exception), ("1", pytest.fail.Exception)]:
        monkeypatch.setenv("CVAE_REQUIRE_SERVERS", value)
        with pytest.raises(outcome, match=package), run():
            pass


def submit(function, *arguments):
    """Submit to Slurm with an hour's limit: submitit takes any signal to a job with less than ten minutes for its end."""
    import submitit

    executor = submitit.SlurmExecutor(folder=Path("submitit").absolute())
    executor.update_parameters(time=60, job_name="trial")
    return executor.submit(function, *arguments)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 400
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Defined here, a job's class would be looked for in a module that its process does not have.
def counting(folder: Path):
    """A job that runs for a minute at first, and ends at once with its count when it was preempted."""

    class Counting:
        preempted = 0

        def __call__(self) -> int:
            (folder / f"began {self.preempted}").touch()
            if not self.preempted:
                time.sleep(60)
            return self.preempted

        def checkpoint(self):
            import signal

            from submitit.helpers import DelayedSubmission

            # submitit runs `scontrol requeue` next, upon which Slurm ends the job. If that ends scontrol too, before it is
            # through, submitit takes the job for failed; submitit itself ignores the signal anyway.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.preempted += 1
            return DelayedSubmission(self)

    return Counting()


def test_slurm_runs_a_job(slurm: Slurm) -> None:
    job = submit(lambda: 6 * 7)
    assert job.result() == 42
    assert slurm.wait(job.job_id, "COMPLETED").name == "trial"


def test_a_preempted_job_is_requeued_and_ends(slurm: Slurm, tmp_path: Path) -> None:
    job = submit(counting(tmp_path))
    wait_for(tmp_path / "began 0")
    slurm.preempt(job.job_id)
    slurm.hurry(job.job_id)
    assert job.result() == 1
    assert slurm.job(job.job_id).restarts == 1


def test_submitit_sees_a_cancelled_job_end(slurm: Slurm, tmp_path: Path) -> None:
    job = submit(counting(tmp_path))
    wait_for(tmp_path / "began 0")
    slurm.cancel(job.job_id)
    began = time.monotonic()
    job.wait()
    assert time.monotonic() - began < 15
    assert job.state.startswith("CANCELLED")


def test_slurm_is_left_without_jobs_and_without_those_who_submit_them(slurm: Slurm, tmp_path: Path) -> None:
    sweep = subprocess.Popen(["sleep", "100"])
    jobs = [submit(counting(tmp_path)) for _ in range(6)]
    wait_for(tmp_path / "began 0")
    began = time.monotonic()
    slurm.clear()
    assert time.monotonic() - began < 10
    assert {slurm.job(job.job_id).state for job in jobs} <= {"CANCELLED", "FAILED"}
    assert sweep.wait(120) == -signal.SIGKILL
