"""Real servers for tests: a PostgreSQL, and a Slurm of one node, each on free loopback ports and in a folder of its own; and a
real browser; and programs of others that write data, each in an environment of its own.

Nothing else on the machine is read or changed, and nobody need be root: several run side by side, and beside a PostgreSQL or
Slurm that is there anyway. The fixtures are in ``conftest.py``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

SECONDS = 120.0  # the most that anything here may take; on an idle machine all of it takes a second or two


def missing(what: str) -> NoReturn:
    """Skip, or fail where the servers are expected: nobody looks at what CI skipped."""
    if os.environ.get("CVAE_REQUIRE_SERVERS") == "1":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def need(program: str) -> None:
    """Skip, or fail, where a program is missing: strace looks at system calls, ffmpeg reads and writes videos."""
    if shutil.which(program) is None:
        missing(f"{program} is not installed")


def python_with(package: str, folder: Path) -> Path:
    """A Python with a package that not everybody installs. What this Python has, such as torch, is not installed once more."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "above.pth").write_text(site.getsitepackages()[0] + "\n")
    program = folder / "bin" / "python"
    if subprocess.run([program, "-m", "pip", "install", "-q", package], capture_output=True, check=False).returncode:
        missing(f"{package} cannot be installed")
    return program


@contextlib.contextmanager
def run_browser() -> Iterator[Any]:
    """Chromium without a window, driven by Playwright."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("chromium is not installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


def _run(*words: str | Path, **options: Any) -> str:
    """What a command prints. If it fails the error has its complaint, which subprocess would leave out."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=SECONDS, **options)
    if done.returncode:
        raise RuntimeError(f"{Path(words[0]).name} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return str(done.stdout)


def _wait(true: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(what())
        time.sleep(0.1)


def _free_port() -> int:
    """A port below those that the kernel deals out by itself, so that a server finds it free again after a pause."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def _folder(name: str) -> Iterator[Path]:
    """A folder that other users can reach, as pytest's are not, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix=f"cvae-{name}-")).resolve()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def run_postgres() -> Iterator[Postgres]:
    """A server for the length of a ``with``; skips the test if it is not installed."""
    programs = _postgres_programs()
    if programs is None:
        missing("no PostgreSQL server: apt-get install postgresql")
    if importlib.util.find_spec("psycopg") is None:
        missing("no psycopg: pip install '.[sweep]'")
    with _folder("postgres") as folder, contextlib.ExitStack() as stack:
        server = Postgres(programs, folder)
        stack.callback(server.stop, "immediate")
        server.set_up()
        yield server


def _postgres_programs() -> Path | None:
    """Debian puts them in no folder of PATH."""
    found = shutil.which("pg_ctl")
    versions = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    paths = [Path(found).resolve()] if found else sorted(versions, key=lambda path: float(path.parts[-3]))
    return paths[-1].parent if paths else None


class Postgres:
    """A server with a role ``cvae`` that needs no password, and one ``secret`` that does."""

    PASSWORD = "pa55-w0rd"

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = _free_port()
        self._programs, self._folder = programs, folder
        self._databases = 0
        self._as: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:  # as root the programs refuse to run
            user = _first_user("postgres", "nobody")
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)

    def set_up(self) -> None:
        # Only a machine that loses power would see that nothing is synced to the disk.
        self._do("initdb", "-D", "data", "-U", "cvae", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        place = f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self._folder}'\n"
        rules = "host all secret 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"
        with (self._folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"{place}fsync = off\n")
        (self._folder / "data" / "pg_hba.conf").write_text(rules)
        self.start()
        self._sql(f"CREATE ROLE secret LOGIN SUPERUSER PASSWORD '{self.PASSWORD}'")

    @property
    def url(self) -> str:
        """The database that is always there. A test that writes takes one of its own from ``database``."""
        return self._url("cvae", "postgres")

    def database(self, secret: bool = False) -> str:
        """The URL of a new, empty database; with ``secret`` the one of the role with a password, which the URL has."""
        self._databases += 1
        name = f"test{self._databases}"
        self._sql(f"CREATE DATABASE {name}")
        return self._url(f"secret:{self.PASSWORD}" if secret else "cvae", name)

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if not self.runs():
            self._do("pg_ctl", "-D", "data", "-l", "log", "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it, if it runs: ``fast`` ends its connections in good order, ``immediate`` is a crash."""
        if self.runs():
            self._do("pg_ctl", "-D", "data", "-m", mode, "-w", "stop")

    def restart(self, pause: float = 0.0) -> None:
        """Stop it, leave it down for ``pause`` seconds, and start it on the same port."""
        self.stop()
        time.sleep(pause)
        self.start()

    def runs(self) -> bool:
        with contextlib.suppress(RuntimeError):
            self._do("pg_ctl", "-D", "data", "status")
            return True
        return False

    def _url(self, user: str, name: str) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}"

    def _sql(self, statement: str) -> None:
        self._do("psql", "-qX", "-h", self._folder, "-p", str(self.port), "-U", "cvae", "-c", statement, "postgres")

    def _do(self, program: str, *words: str | Path) -> None:
        _run(self._programs / program, *words, **self._as)


def _first_user(*names: str) -> pwd.struct_passwd:
    there = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(there[name] for name in names if name in there)


# --- Slurm ------------------------------------------------------------------------------------------------------------

# What submitit asks of accounting, which would need a database of its own, told from what slurmctld remembers.
_SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
squeue --noheader --states=all --format='%i|%T|%N' | sed 's/|CANCELLED|/|CANCELLED by 0|/'
"""

_CONF = """
ClusterName=cvae
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=5
MinJobAge=86400
FirstJobId={first}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


@dataclass(frozen=True)
class Job:
    id: str
    state: str
    restarts: int
    name: str


@contextlib.contextmanager
def run_slurm(cpus: int = 4) -> Iterator[Slurm]:
    """A cluster for the length of a ``with``; skips the test if Slurm is not installed.

    Args:
        cpus: how many it believes to have. Jobs that wait for a CPU which the machine has not got would only take longer.
    """
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if absent := [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if not shutil.which(name, path=path)]:
        missing(f"no {', '.join(absent)}: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge")
    if importlib.util.find_spec("submitit") is None:
        missing("no submitit: pip install '.[slurm]'")
    with _folder("slurm") as folder, contextlib.ExitStack() as stack:
        cluster = Slurm(folder, path, cpus)
        stack.callback(cluster.kill)
        cluster.set_up()
        stack.callback(cluster.clear)
        yield cluster


class Slurm:
    """A cluster of one node; ``environment`` is what a process needs to find it."""

    def __init__(self, folder: Path, path: str, cpus: int) -> None:
        self._folder, self._cpus = folder, cpus
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{path}"}

    def set_up(self) -> None:
        folder = self._folder
        for name in ("bin", "state", "spool"):
            (folder / name).mkdir()
        sacct, key = folder / "bin" / "sacct", folder / "munge.key"
        sacct.write_text(_SACCT)
        sacct.chmod(0o755)
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        settings = {
            "host": socket.gethostname().partition(".")[0],
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "ports": (_free_port(), _free_port()),
            # submitit remembers the ends of all jobs by id for as long as its process lives, whatever cluster they were on.
            "first": int(time.time()) % 10_000_000 + 1,
        }
        (folder / "slurm.conf").write_text(_CONF.format(folder=folder, cpus=self._cpus, **settings))
        files = {name: f"--{name}-file={folder / 'munge'}.{name}" for name in ("key", "log", "pid", "seed")}
        self._start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files.values())
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        _wait(self._idle, self._logs)

    def jobs(self) -> list[Job]:
        """All jobs that there were, the last one first."""
        table = self._do("squeue", "-ht", "all", "-S", "-i", "-O", "JobArrayID:30,State:30,RestartCnt:30,Name:99")
        rows = [line.rstrip().split(maxsplit=3) for line in table.splitlines()]
        return [Job(id, state, int(restarts), name) for id, state, restarts, name in rows]

    def job(self, id: str) -> Job:
        return {job.id: job for job in self.jobs()}[id]

    def wait(self, id: str, *states: str) -> Job:
        """Wait until a job is in one of these states."""
        _wait(lambda: self.job(id).state in states, lambda: f"{self.job(id)} did not come to be {' or '.join(states)}")
        return self.job(id)

    def preempt(self, id: str) -> None:
        """Signal a running job as a cluster does that wants its place back: submitit requeues it.

        Its function must run by then: a Python that still starts dies of the signal.
        """
        self._do("scancel", "--signal=USR2", id)

    def hurry(self, id: str) -> None:
        """Wait until a preempted job is back in the queue, and make two seconds of the two minutes that Slurm holds it there.

        One that was not requeued is left as it is.
        """
        if self.wait(id, "PENDING", *_ENDED).state == "PENDING":
            # Within the second that it was ended in, its node takes the new start for the old one, and refuses.
            self._do("scontrol", "update", f"jobid={id}", "StartTime=now+2")

    def cancel(self, id: str) -> None:
        self._do("scancel", id)

    def clear(self) -> None:
        """End all jobs, and whatever else was started to use this cluster, such as a sweep that goes on submitting.

        At once: submitit's jobs ignore SIGTERM, and Slurm would wait for them.
        """

        def clear() -> bool:
            if ids := [job.id for job in self.jobs() if job.state not in _ENDED]:
                with contextlib.suppress(RuntimeError):  # of those that have ended by now
                    self._do("scancel", *ids)
            self._kill(daemons=False)
            return not ids

        _wait(clear, lambda: f"jobs that do not end: {self.jobs()}")

    def kill(self) -> None:
        """End the daemons, and all that ``clear`` ends."""
        _wait(lambda: not self._kill(daemons=True), self._logs)
        for daemon in self._daemons:
            daemon.wait()

    def _kill(self, daemons: bool) -> int:
        killed = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self._folder):
                    ours = daemons  # some of them write their title over their environment
                else:
                    ours = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if ours:
                    process.kill()
                    killed += 1
        return killed

    def _start(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as out:
            # A session of its own: Ctrl-C is for the tests, which then clear up.
            options: dict[str, Any] = {"stdout": out, "stderr": subprocess.STDOUT, "start_new_session": True}
            options |= {"cwd": self._folder, "env": {**os.environ, **self.environment}}
            self._daemons.append(subprocess.Popen(command, **options))

    def _idle(self) -> bool:
        if any(daemon.poll() is not None for daemon in self._daemons):
            raise RuntimeError(self._logs())
        with contextlib.suppress(RuntimeError):
            return self._do("sinfo", "--noheader", "--format=%T").strip() == "idle"
        return False

    def _logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self._folder.glob("*.out")))

    def _do(self, *words: str) -> str:
        return _run(*words, env={**os.environ, **self.environment})
