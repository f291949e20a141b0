"""Run folders that mean harm: what each does to a whole run, and what the report's line on it says."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import yaml

HUGE = 20 << 30
_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
_CREATE = {"op_code": 0, "worker_id": "w", "study_name": "s", "directions": [2]}
_TRIAL = {"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": None}

Spoil = Callable[[Path], object]


def _put(name: str, content: str | bytes) -> Spoil:
    def spoil(run: Path) -> None:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def _more(name: str, text: str) -> Spoil:
    return lambda run: (run / name).write_text((run / name).read_text() + text)


def _sparse(name: str, size: int = HUGE) -> Spoil:
    return lambda run: (_put(name, b"")(run), os.truncate(run / name, size))


def _instead(name: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(run: Path) -> None:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return spoil


def _pipe(name: str) -> Spoil:
    return _instead(name, os.mkfifo)


def _link(name: str, to: str) -> Spoil:
    return _instead(name, lambda path: path.symlink_to(to))


def _crowd(name: str, count: int) -> Spoil:
    def spoil(run: Path) -> None:
        (run / name).mkdir(exist_ok=True)
        for number in range(count):
            (run / name / f"{number}.json").touch()

    return spoil


def _gif(width: int, frames: bytes) -> Spoil:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, 426, 0x80, 0, 0) + b"\0" * 6
    return _put("samples/epoch_0009.gif", screen + frames + b";")


def _frame(width: int, height: int) -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08\x02\x00\x01\x00"


def _png() -> bytes:
    """400 million pixels in half a megabyte."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(b"\0" * (1 << 20)) * 400
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _study(storage: str, spoil: Spoil = lambda run: None, number: int = 0) -> Spoil:
    """A run that says it is a trial of study ``s``; ``HERE`` in its storage is the folder that it is in."""

    def spoil_both(run: Path) -> None:
        config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
        trial = {"number": number, "study": "s", "storage": storage.replace("HERE", str(run.parent))}
        (run / ".hydra/config.yaml").write_text(yaml.safe_dump({**config, "trial": trial}))
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**record, "group": "s"}))
        spoil(run)

    return spoil_both


def _journal(*logs: dict[str, object]) -> Spoil:
    return _study("journal://HERE/j", _put("../j", "".join(json.dumps(log) + "\n" for log in (_CREATE, *logs))))


_REPORTS = [{"op_code": 7, "worker_id": "w", "trial_id": 0, "step": step, "intermediate_value": 1.0} for step in range(60_000)]
_HEX = "0x" + "f" * 9000

# A folder costs the report one line, or nothing: then what it shows of the run is right.
FOLDERS: dict[str, tuple[Spoil, str]] = {
    "pipe: config": (_pipe(".hydra/config.yaml"), "config.yaml is not a regular file"),
    "pipe: overrides": (_pipe(".hydra/overrides.yaml"), "overrides.yaml is not a regular file"),
    "pipe: hydra.yaml": (_pipe(".hydra/hydra.yaml"), "hydra.yaml is not a regular file"),
    "pipe: record": (_pipe("run.json"), "run.json is not a regular file"),
    "pipe: rows": (_pipe("metrics.jsonl"), "metrics.jsonl is not a regular file"),
    "pipe: video": (_pipe("samples/epoch_0009.gif"), "epoch_0009.gif is not a regular file"),
    "pipe: samples": (_pipe("samples"), ""),
    "pipe: evaluation": (_pipe("eval/course.json"), "eval/course.json is not a regular file"),
    "pipe: checkpoint": (_pipe("checkpoints/last.pt"), "last.pt is damaged (it is not a regular file)"),
    "pipe: failure": (_pipe("failure.txt"), "failure.txt is not a regular file"),
    "pipe: owner": (_pipe("owner.json"), ""),
    "pipe: journal": (_study("journal://HERE/j", _pipe("../j")), "j is not a regular file"),
    "device: rows": (_link("metrics.jsonl", "/dev/zero"), "leads out of the folder"),
    "device: journal": (_study("journal:///dev/zero"), "zero is not a regular file"),
    "link: out": (_link("run.json", "/etc/passwd"), "run.json is a link that leads out of the folder"),
    "link: to itself": (_link("run.json", "run.json"), "run.json cannot be read"),
    "link: samples to itself": (_link("samples", "samples"), ""),
    "link: samples out": (_link("samples", "/"), ""),
    "folder: rows": (_instead("metrics.jsonl", lambda path: path.mkdir()), "metrics.jsonl is not a regular file"),
    "huge: config": (_sparse(".hydra/config.yaml"), "config.yaml is too large: 20 GiB"),
    "huge: record": (_sparse("run.json", 1 << 30), "run.json is too large: 1 GiB"),
    "huge: rows": (_sparse("metrics.jsonl", 1 << 30), "metrics.jsonl is too large: 1 GiB"),
    "huge: video": (_sparse("samples/epoch_0009.gif"), "epoch_0009.gif is too large: 20 GiB"),
    "huge: evaluation": (_sparse("eval/course.json"), "eval/course.json is too large: 20 GiB"),
    "huge: checkpoint": (_sparse("checkpoints/last.pt"), "last.pt is damaged"),
    "huge: failure": (_sparse("failure.txt"), "failure.txt is no text"),
    "huge: journal": (_study("journal://HERE/j", _sparse("../j")), "j is too large: 20 GiB"),
    "huge: sweep.json": (_study("journal:///nowhere", _sparse("../sweep.json")), "sweep.json is too large: 20 GiB"),
    "many: evaluations": (_crowd("eval", 101), "eval: it holds more than 100 files"),
    "many: settings": (_more(".hydra/config.yaml", "".join(f"k{n}: v\n" for n in range(1100))), "more than 1000 settings"),
    "many: lines": (_put("metrics.jsonl", "\n" * (1 << 22)), "more than 20,000 lines"),
    "many: keys": (
        _put("metrics.jsonl", json.dumps({"epoch": 1} | {f"k{n}": 1 for n in range(300_000)}) + "\n"),
        "line 1 of metrics.jsonl is damaged (it has more",
    ),
    "many: reports": (_journal(_TRIAL, *_REPORTS), "take too long to read"),
    "many: trials": (_journal(*[_TRIAL] * 20_001), "too many to be shown"),
    "long: journal": (_study("journal://HERE/j", _put("../j", "x" * 2_000_000)), "a line of more than a million letters"),
    "aliases: config": (_more(".hydra/config.yaml", _LAUGHS), "config.yaml has YAML aliases"),
    "aliases: overrides": (_put(".hydra/overrides.yaml", _LAUGHS), "overrides.yaml has YAML aliases"),
    "aliases: multirun": (_put("../multirun.yaml", _LAUGHS), ""),
    "deep: config": (_more(".hydra/config.yaml", "x: " + "[" * 50_000), "config.yaml cannot be read"),
    "deep: blocks": (_more(".hydra/config.yaml", "x:\n" + "".join(f"{' ' * n}k:\n" for n in range(1, 99))), "too deeply"),
    "deep: record": (_put("run.json", "[" * 1_000_000), "run.json is damaged (nested too deeply)"),
    "deep: rows": (_put("metrics.jsonl", "[" * 60_000 + "\n"), "line 1 of metrics.jsonl is damaged (nested too deeply)"),
    "deep: evaluation": (_put("eval/course.json", "[" * 900_000), "eval/course.json is damaged (nested too deeply)"),
    "deep: journal": (_study("journal://HERE/j", _put("../j", "[" * 900_000 + "\n")), "damaged in line 1"),
    "deep: sweep.json": (_study("journal:///nowhere", _put("../sweep.json", "[" * 900_000)), "sweep.json is damaged (nested"),
    "value: long": (_more(".hydra/config.yaml", "x: " + "y" * 100_000), "a value of 100000 letters"),
    "value: sexagesimal": (_more(".hydra/config.yaml", "x: " + "1:" * 4900 + "1"), ""),
    "value: number": (_more(".hydra/config.yaml", f"x: {_HEX}"), ""),
    "value: learning rate": (lambda run: _number(run, "lr"), ""),
    "value: epochs": (lambda run: _number(run, "epochs"), "epochs is 'a number too large'"),
    "value: odd kinds": (_more(".hydra/config.yaml", "s: !!set {a}\nd: 2001-02-03\nb: !!binary aGk=\nn: .nan\n1: 2\n"), ""),
    "value: code": (_more(".hydra/config.yaml", "x: !!python/object/apply:os.system ['touch pwned']"), "config.yaml cannot be"),
    "record: texts": (_put("run.json", json.dumps(dict.fromkeys(("dataset", "id", "command", "group"), "x" * 200_000))), ""),
    "record: metrics": (_put("run.json", json.dumps({"metrics": [{"key": "k", "label": "l", "shown": ["x"]}]})), ""),
    "record: resumed": (_put("run.json", json.dumps({"resumed": [[]] * 9, "versions": [1], "dirty": {}})), ""),
    "evaluation: odd": (_put("eval/x.json", '{"psnr": {"mean": 1, "ci95": 3}, "videos": []}'), "eval/x.json cannot be read"),
    "evaluation: name": (_put("eval/<b>\x1b[31m\n.json", "{"), "\\u001b[31m .json is damaged"),
    "video: wide": (_gif(65_430, _frame(65_430, 426) * 12), "its size is not that of a sample video"),
    "video: grows": (_gif(288, _frame(288, 426) + _frame(13_000, 13_000)), "a frame leaves its screen"),
    "video: comment": (_gif(288, b"!\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"), "blocks that sample videos have not"),
    "video: crumbs": (_gif(288, b"!\xff" + b"\1x" * 5_000 + b"\0"), "too many blocks"),
    "video: cut off": (_gif(288, b"!"), "cannot be shown"),
    "video: picture": (_put("samples/epoch_0009.gif", _png()), "epoch_0009.gif cannot be shown"),
    "journal: any file": (_study("journal:///etc/passwd"), "damaged in line 1"),
    "journal: no value": (_journal({**_TRIAL, "state": 1}), "its trials cannot be shown"),
    "journal: reports": (_journal({**_TRIAL, "intermediate_values": {"1": "x"}}), "its trials cannot be shown"),
    "journal: owner": (_journal({**_TRIAL, "system_attrs": {"cvae:sweeper": [1]}}), "its trials cannot be shown"),
    "journal: retried": (_journal({**_TRIAL, "system_attrs": {"retry_history": [[0]]}}), "its trials cannot be shown"),
    "journal: other study": (_study("journal://HERE/j", _put("../j", "")), "it has no study s"),
    "journal: name": (_study("journal://~no_such_user/x"), "~no_such_user/x"),
}


def _number(run: Path, key: str) -> None:
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    config.pop(key)
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump(config) + f"{key}: {_HEX}\n")
