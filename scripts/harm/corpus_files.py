"""Hostile folders by what their files are: links, pipes, bombs, endless files, names, and studies."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harm.stranger import READ_BY, Stranger, Trap

_HUGE = 20 << 30  # bytes of a file that takes no space


def traps(gigabyte: bool) -> Iterator[Trap]:
    """All of them; ``gigabyte``: with a metrics.jsonl of 1 GB, where else it has 200 MB."""
    for name, (below, target) in _LINKS.items():
        yield Trap("links", name, partial(_linked, below=below, target=target))
    for name in _PIPES:
        yield Trap("pipes", f"a pipe as {name}", partial(_pipe, name=name), _commands(name))
    for name in _SPARSE:
        yield Trap("endless files", f"{name} of 20 GB", partial(_sparse, name=name), _commands(name))
    for name, text in _DEEP.items():
        yield Trap("bombs", f"{name} nested deeply", partial(_deep, name=name, text=text), _commands(name))
    for name in _ALIASED:
        yield Trap("bombs", f"an alias bomb as {name}", partial(_aliases, name=name), _commands(name))
    size, count = ("1 GB", 1000) if gigabyte else ("200 MB", 200)
    yield Trap("endless files", f"a metrics.jsonl of {size}", partial(_long, count=count), READ_BY)
    for name, (row, make, commands) in _OTHERS.items():
        yield Trap(row, name, make, commands)


def _commands(name: str) -> tuple[str, ...]:
    if name == "best.yaml":
        return ("best", "report")
    return ("sweep", "report") if name == "study.journal" else READ_BY


def _path(stranger: Stranger, name: str) -> Path:
    """A file of the study, or of its run."""
    path = (stranger.folder if name in ("best.yaml", "study.journal", "sweep.json", "multirun.yaml") else stranger.run) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if name == "sweep.json":
        stranger.sweep_json()
        path.unlink()
    return path


# --- links: what is written through them lies outside of the folder, and what is read through them is the user's -----

_LINKS = {
    "metrics.jsonl is a link": ("metrics.jsonl", "victim"),
    "run.json is a link": ("run.json", "victim"),
    "run.json.partial is a link": ("run.json.partial", "victim"),
    "last.pt is a link": ("checkpoints/last.pt", "victim"),
    "last.pt.partial is a link": ("checkpoints/last.pt.partial", "victim"),
    "best.pt.partial is a link": ("checkpoints/best.pt.partial", "victim"),
    "the checkpoints are a link": ("checkpoints", "."),
    "the samples are a link": ("samples", "."),
    "a sample is a link": ("samples/epoch_0004.gif", "victim"),
    "a picture is a link": ("samples/epoch_0004.png", "victim"),
    "curves.png is a link": ("curves.png", "victim"),
    "train.log is a link": ("train.log", "victim"),
    "owner.json is a link": ("owner.json", "victim"),
    "failure.txt is a link": ("failure.txt", "victim"),
    "an evaluation is a link": ("eval/free.json", "victim"),
    "config.yaml is a link": (".hydra/config.yaml", "victim"),
    "overrides.yaml is a link": (".hydra/overrides.yaml", "victim"),
}


def _linked(stranger: Stranger, below: str, target: str) -> None:
    stranger.link(below, stranger.outside / target)


# --- files that do not end, or take more than they seem --------------------------------------------------------------

_PIPES = (
    "metrics.jsonl",
    "run.json",
    ".hydra/config.yaml",
    ".hydra/overrides.yaml",
    "checkpoints/last.pt",
    "checkpoints/best.pt",
    "samples/epoch_0009.gif",
    "samples/epoch_0004.gif",
    "eval/free.json",
    "owner.json",
    "failure.txt",
    "best.yaml",
    "sweep.json",
    "study.journal",
)
_SPARSE = (
    "metrics.jsonl",
    "run.json",
    ".hydra/config.yaml",
    ".hydra/overrides.yaml",
    "checkpoints/last.pt",
    "samples/epoch_0009.gif",
    "eval/free.json",
    "failure.txt",
    "best.yaml",
    "sweep.json",
)
_DEEP = {
    "metrics.jsonl": "[" * 200_000 + "\n",
    "run.json": "[" * 200_000,
    ".hydra/config.yaml": "a: " + "[" * 3_000,
    ".hydra/overrides.yaml": "- " + "[" * 3_000,
    "sweep.json": '{"a":' * 100_000,
    "best.yaml": "a: " + "[" * 3_000,
    "eval/free.json": "[" * 200_000,
}
_ALIASED = (".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml", "best.yaml")


def _pipe(stranger: Stranger, name: str) -> None:
    os.mkfifo(_path(stranger, name))


def _sparse(stranger: Stranger, name: str) -> None:
    path = _path(stranger, name)
    path.touch()
    os.truncate(path, _HUGE)


def _deep(stranger: Stranger, name: str, text: str) -> None:
    _path(stranger, name).write_text(text)


def _aliases(stranger: Stranger, name: str) -> None:
    """Ten levels of ten references each: 10 GB once it is read whole."""
    lines = ["a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    text = "\n".join(lines) + "\n"
    if name.endswith("overrides.yaml"):
        text = "".join(f"- {line.partition(': ')[2]}\n" for line in lines)
    _path(stranger, name).write_text(text)


def _long(stranger: Stranger, count: int) -> None:
    line = json.dumps({"epoch": 1, "step": 3, "val/psnr": 10.0, "note": "x" * 100}) + "\n"
    with _path(stranger, "metrics.jsonl").open("w") as file:
        for _ in range(count):
            file.write(line * (1_000_000 // len(line)))


# --- pictures, names, studies ----------------------------------------------------------------------------------------


def _wide_gif(stranger: Stranger, height: int) -> None:
    """40 frames of 65,430 pixels a row, by their heads alone."""
    screen = struct.pack("<6sHHBBB", b"GIF89a", 65_430, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"!\xf9\x04\0\x0a\0\0\0" + struct.pack("<BHHHHB", 0x2C, 0, 0, 65_430, height, 0) + b"\x02\x02\x44\x01\0"
    (stranger.run / "samples/epoch_0009.gif").write_bytes(screen + frame * 40 + b";")


def _zip_bomb(stranger: Stranger) -> None:
    with zipfile.ZipFile(stranger.run / "checkpoints/last.pt", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("x/data.pkl", "w", force_zip64=True) as record:
            for _ in range(2000):
                record.write(bytes(1_000_000))
        file.writestr("x/version", "3\n")


def _names(stranger: Stranger) -> None:
    """Folders and settings whose names a terminal or a browser would obey."""
    stranger.run.rename(stranger.folder / "\x1b]0;owned\x07\x1b[31mowned\u202e")
    stranger.run = stranger.folder / "\x1b]0;owned\x07\x1b[31mowned\u202e"
    stranger.config("data.condition", "</script><script>owned()</script><img src=x onerror=owned()>")


def _many_keys(stranger: Stranger) -> None:
    row = {"epoch": 1, "step": 3, "val/psnr": 10.0, **{f"k{number}": 1.0 for number in range(300_000)}}
    (stranger.run / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def _wrong_types(stranger: Stranger) -> None:
    rows = [
        '{"epoch": "one"}',
        '{"epoch": 1, "val/psnr": {}}',
        '{"epoch": 1e400}',
        f'{{"epoch": {"9" * 5000}}}',
        "[]",
        "null",
        '"x"',
    ]
    (stranger.run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    (stranger.run / "run.json").write_text(json.dumps({"id": [], "signature": {}, "group": 7, "process": "x", "resumed": 3}))


def _link_loop(stranger: Stranger) -> None:
    (stranger.folder / "again").symlink_to(stranger.folder)
    (stranger.folder / "loop").symlink_to("loop")
    (stranger.run / "samples/epoch_0009.gif").symlink_to("epoch_0009.gif")


def _finished_trial(stranger: Stranger, attributes: dict[str, Any]) -> Any:
    import optuna

    spaces = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-2),
        "beta": optuna.distributions.FloatDistribution(0.5, 1.0),
    }
    params = {"lr": 1e-3, "beta": 0.7}
    return optuna.trial.create_trial(value=10.0, params=params, distributions=spaces, system_attrs=attributes)


def _cmaes_pickle(stranger: Stranger) -> None:
    study = stranger.study()
    for _ in range(3):
        study.add_trial(_finished_trial(stranger, {"cma:optimizer:0": stranger.pickle().hex(), "cma:generation": 0}))


def _study_elsewhere(stranger: Stranger, kept: str = "", done: int = 1) -> None:
    """Queued trials that say where their folder is, in a sweep's folder of the user's own; and parameters that are none."""
    if kept:
        (stranger.outside / "2").mkdir()
        (stranger.outside / "2" / "kept").write_text("the user's own trial\n")
        (stranger.outside / "multirun.yaml").write_text(kept)
    study = stranger.study()
    for _ in range(done):
        study.add_trial(_finished_trial(stranger, {"cvae:sweep_dir": str(stranger.outside)}))
    queued = {"lr": 1e-3, "beta": 0.7} | ({} if kept else {"+hydra.callbacks.x._target_": "stranger.payload.Fire"})
    for _ in range(2):
        study.enqueue_trial(queued, user_attrs={"folder": str(stranger.outside / "trial")})
    for trial in study.trials[done:]:
        study._storage.set_trial_system_attr(trial._trial_id, "cvae:sweep_dir", str(stranger.outside))


def _slow_journal(stranger: Stranger) -> None:
    """A journal whose lines take ever longer to apply: reports, of which each copies those before it."""
    stranger.study().ask()
    path = stranger.folder / "study.journal"
    worker = json.loads(path.read_text().splitlines()[0])["worker_id"]
    with path.open("a") as file:
        for step in range(60_000):
            log = {"op_code": 7, "worker_id": worker, "trial_id": 0, "step": step, "intermediate_value": 1.0}
            file.write(json.dumps(log, separators=(",", ":")) + "\n")
    stranger.sweep_json(storage=f"journal://{path}")
    (stranger.folder / "sweep.json").unlink()


def _sweep_record(stranger: Stranger) -> None:
    """A sweep.json with a database, a command to paste and names that a terminal would obey."""
    command = f"python -m cvae.train -m x; sh -c '{stranger.shell}' allow_targets=[torch] logger._target_=torch.load"
    storage = f"postgresql://u:p@127.0.0.1:{stranger.port}/x"
    stranger.sweep_json(command=command, storage=storage, objective="\x1b[31mowned</script><script>owned()</script>")


_OTHERS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "a GIF 65,430 pixels wide": ("bombs", partial(_wide_gif, height=1_300), ("report",)),
    "a GIF 65,430 pixels wide and high": ("bombs", partial(_wide_gif, height=65_430), ("report",)),
    "a checkpoint that unpacks to 2 GB": ("bombs", _zip_bomb, READ_BY),
    "names that are obeyed": ("names and values", _names, ("report",)),
    "300,000 keys in a line": ("bombs", _many_keys, ("report", "resume")),
    "values of wrong types": ("names and values", _wrong_types, ("report", "resume")),
    "links in circles": ("links", _link_loop, ("report",)),
    "a study with a pickle": ("studies", _cmaes_pickle, ("sweep",)),
    "a study with trials elsewhere": ("studies", _study_elsewhere, ("sweep by chance", "report")),
    "a study with trials in another sweep": ("studies", partial(_study_elsewhere, kept="hydra: {}\n"), ("sweep by chance",)),
    "a study that ended elsewhere": ("studies", partial(_study_elsewhere, done=5), ("sweep by chance",)),
    "a journal of reports": ("studies", _slow_journal, ("report",)),
    "a sweep.json to paste": ("studies", _sweep_record, ("report",)),
}
