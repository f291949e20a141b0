"""Places that cannot be: each key that names one, with each kind of impossible place. The answer is one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harm import judge
from harm.bench import Bench
from harm.cases import Case, Outcome

_KEYS = {  # the words of a command; PLACE stands for the place
    "resume": ("train", "resume=PLACE"),
    "experiment": ("train", "experiment=PLACE.yaml"),
    "data.root": ("train", "data=course", "data.root=PLACE", "model=tiny", "logger=none"),
    "a world's root": ("train", "WORLD", "data.root=PLACE"),
    "data.cache_dir": ("train", "RUN", "data.cache_dir=PLACE"),
    "CVAE_CACHE": ("train", "RUN"),
    "hydra.run.dir": ("train", "RUN", "hydra.run.dir=PLACE"),
    "hydra.sweep.dir": ("train", "SWEEP", "hydra.sweep.dir=PLACE"),
    "a storage": ("train", "SWEEP", "hydra.sweeper.storage=journal://PLACE"),
    "--config-dir": ("train", "--config-dir=PLACE", "--cfg=job"),
    "runs": ("report", "runs=PLACE"),
    "out": ("report", "runs=run", "out=PLACE"),
    "load_model": ("load", "PLACE", "best"),
    "a run to evaluate": ("evaluate", "run=PLACE"),
    "lpips.weights": ("evaluate", "EVALUATE", "protocol.course.metrics=[psnr,lpips]", "lpips.weights=PLACE"),
    "fvd.weights": ("evaluate", "EVALUATE", "protocol.course.metrics=[psnr,fvd]", "fvd.weights=PLACE"),
    "a run to predict": ("predict", "run=PLACE"),
    "a prediction's out": ("predict", "PREDICT", "out=PLACE"),
    "frames": ("predict", "PREDICT", "frames=PLACE"),
    "actions": ("predict", "PREDICT", "actions=PLACE"),
    "export": ("predict", "run=run", "export=PLACE.safetensors"),
}
_PLACES = ("long", "loop", "file", "below a file", "full", "absent", "odd")


def cases(short: bool) -> Iterator[Case]:
    """Each key with each place, and the control."""
    for key in _KEYS:
        for place in _PLACES:
            yield Case(f"messages/{key}/{place}", partial(_met, key=key, place=place), ("run", "half"))
    yield Case("messages/control/two lines", _two_lines, control=True)


def _met(bench: Bench, generator: random.Random, key: str, place: str) -> Outcome:
    bench.restore("half")
    path = _made(bench.place.work, place)
    entry, *words = _KEYS[key]
    known = {"WORLD": bench.pack_words("new"), "RUN": [*bench.run_words("new"), "epochs=1"], "SWEEP": bench.sweep_words(1)}
    known |= {"EVALUATE": ["run=run", "split=validate", "protocol.course.n_future=2"]}
    known |= {"PREDICT": ["run=run", "split=validate", "samples=1"]}
    filled = [word.replace("PLACE", str(path)) for given in words for word in known.get(given, [given])]
    environment = {"CVAE_CACHE": str(path)} if key == "CVAE_CACHE" else {}
    result = bench.place.run(entry, *filled, **environment)
    if complaint := judge.complaint(result):
        return Outcome(complaint.split()[0], f"{complaint}: {judge.said(result)}")
    return Outcome("one line" if result.code == 1 else "taken")


def _made(folder: Path, place: str) -> Path:
    if place == "long":
        return folder / ("n" * 300)
    if place == "loop":
        (folder / "loop").symlink_to("loop")
        return folder / "loop"
    if place == "full":
        return Path("/dev/full")
    if place == "odd":  # which may be made and used
        return folder / "données \u202e \x1b[31m"
    if place == "absent":
        return folder / "absent"
    (folder / "file").write_text("words\n")
    return folder / "file" / "below" if place == "below a file" else folder / "file"


def _two_lines(bench: Bench, generator: random.Random) -> Outcome:
    """A command that says more than its line."""
    result = bench.place.run("raise", "two")
    complaint = judge.complaint(result)
    return Outcome("unclear", complaint) if complaint else Outcome("one line")
