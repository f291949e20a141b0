"""A study in a database that several sweepers share, and that goes away for a while."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from servers import Postgres
from toys import check_complete, log, run, start, until

pytestmark = pytest.mark.servers


def test_two_sweepers_share_a_study_through_a_restart_of_the_server(postgres: Postgres) -> None:
    url = postgres.database()
    words = [f"hydra.sweeper.storage='{url}'", "hydra.sweeper.n_trials=12", "seconds=2"]
    sweepers = [start(*words, launcher="local", out=f"out{host}.txt") for host in range(2)]
    until(lambda: len(log("end")) >= 2)
    postgres.restart(pause=10)
    for sweeper in sweepers:
        assert sweeper.wait(120) == 0, [Path(f"out{host}.txt").read_text() for host in range(2)]
    check_complete(12, url=url)
    assert [len(log("begin", number)) for number in range(12)] == [1] * 12
    assert len({Path(entry["folder"]).parent for entry in log("begin")}) == 2, "only one of them worked"
    said = [Path(f"out{host}.txt").read_text() for host in range(2)]
    assert all("12 of 12 done: 12 complete" in each for each in said), said


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_password_stays_out_of_sight(postgres: Postgres, launcher: str) -> None:
    url = postgres.database(secret=True)
    assert Postgres.PASSWORD in url
    code, out = run(f"hydra.sweeper.storage='{url}'", "hydra.sweeper.n_trials=2", launcher=launcher)
    assert code == 0, out
    check_complete(2, url=url)
    found = subprocess.run(["grep", "-rl", Postgres.PASSWORD, "."], capture_output=True, text=True).stdout
    assert found == ""
    assert "***" in Path(log("begin")[0]["folder"], ".hydra/hydra.yaml").read_text()


def test_a_server_that_is_not_there_is_one_line(postgres: Postgres) -> None:
    url = postgres.database(secret=True)
    postgres.stop()
    code, out = run(f"hydra.sweeper.storage='{url}'")
    assert code == 1
    assert [line[:28] for line in out.splitlines()] == ["error: storage=postgresql://"]
    assert Postgres.PASSWORD not in out
