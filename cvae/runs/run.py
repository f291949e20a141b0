"""Read one run folder in any state: finished, running, stopped, damaged, or written by another version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvae import __version__, files, integrity, repeat
from cvae.config import flat, identity
from cvae.console import printable, short
from cvae.metrics import KEY, Metric, from_record
from cvae.options import believed, chosen
from cvae.repeat import OVERRIDES
from cvae.runs.evaluations import Evaluation, read_evaluations
from cvae.runs.rows import Row, read_rows
from cvae.runs.state import failure_of, state_of
from cvae.start import resume_command
from cvae.strangers import pasteable, said

# Like the keys that ``identity`` leaves out, they do not change what a run learns.
_IGNORED = ("sample_every", "validate_at", "compile")
_GROUPS = ("data", "model", "prior", "likelihood", "kl_schedule", "tf_schedule", "optim")
_REQUIRED = ("seed", "epochs", "n_past", "n_future")  # whole numbers that every report needs
DATA = "data.fingerprint"  # added to the settings: a hash of the content of the data, since their folder's name says nothing
_PICTURES = 50_000  # in a folder of samples
_SETTINGS, _TEXT = 1000, 2000  # that a run may have, and letters of each
_CONFIG = ".hydra/config.yaml"


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    ``settings`` is the flat config: ``model.latent_dim: 32``. The choice of a group stands under the group's name,
    ``kl_schedule: cyclical``, and the fingerprint of the data under ``data.fingerprint``. ``options`` are the names of the
    chosen options as the command knows them, ``model: tiny``; of a run that does not say them, those of the classes.
    ``rows`` are the rows of metrics.jsonl, one for each epoch, up to the first damage; ``inside`` are those of
    validations.jsonl, between the ends of epochs. ``record`` is run.json, ``metrics`` the table of metrics in it. ``state``
    is finished, running, stopped, pruned, failed, diverged or damaged: what is shown of a damaged run is right, but it may
    not be all, or not of these settings. ``problems`` say what is wrong with its files, and ``note`` adds them to the reason
    of its state. ``checkpoint`` is the one from which it can go on: last.pt, best.pt or none.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    options: dict[str, str]
    rows: list[Row]
    inside: list[Row]
    record: dict[str, Any]
    metrics: tuple[Metric, ...]
    objective: str
    state: str
    note: str
    problems: list[str]
    checkpoint: str
    video: str  # the name of its latest sample video in its folder; empty if there is none
    evaluations: list[Evaluation]
    overrides: list[str] | None  # None: they cannot be read
    sweep: str | None  # the name of its study or multirun
    storage: str  # the storage of its study, without a password; empty outside of sweeps
    trial: int | None

    @property
    def epochs(self) -> int:
        """The number of epochs when it is finished."""
        return int(self.settings["epochs"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def study(self) -> tuple[str, str] | None:
        """The name and the storage of its study: two studies in two storages may have the same name."""
        return (self.sweep, self.storage) if self.sweep is not None and self.trial is not None else None

    def best(self, key: str) -> tuple[float, int] | None:
        """A metric's best value and its epoch; None of a damaged run, which is not ranked."""
        if self.state == "damaged":
            return None
        rows, metric = [row for row in self.rows if key in row], self.metric(key)
        best = min(rows, key=lambda row: metric.rank(row[key]), default=None)  # the first of equals
        return (best[key], int(best["epoch"])) if best else None

    def metric(self, key: str) -> Metric:
        """The row of a metric; one without a direction where the table has none."""
        return next((metric for metric in self.metrics if metric.key == key), Metric(key, key))

    def last(self, key: str) -> float | None:
        """The latest value of a metric."""
        return next((row[key] for row in reversed(self.rows) if key in row), None)

    def series(self, key: str) -> dict[int, float]:
        """A metric by epoch, where it was taken."""
        return {int(row["epoch"]): row[key] for row in self.rows if key in row}

    @property
    def repeat(self) -> str:
        """The command that repeats it as a single run, without what a folder must not say: ``left_out``; empty if not known."""
        if self.overrides is None:
            return ""
        return repeat.alone(pasteable(repeat.of_the_run(self.overrides))[0], self.sweep is not None)

    @property
    def left_out(self) -> str:
        """What the command to repeat it lacks, in a sentence; empty if nothing."""
        return said(pasteable(repeat.of_the_run(self.overrides or []))[1])

    @property
    def resume(self) -> str:
        """The command that goes on with it; empty if it has not stopped, or cannot."""
        ended = self.state in ("stopped", "damaged") or (self.state == "failed" and self.trial is None)
        if not (ended and self.checkpoint):
            return ""
        return resume_command(Path(short(self.folder))) + " checkpoint=best" * (self.checkpoint == "best.pt")


# --- reading ----------------------------------------------------------------------------------------------------------


class FailedStart(Exception):
    """A run ended before it began; the message is the reason that it left."""


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        FailedStart: the run ended before it began.
        files.Unreadable: the folder holds no run, or a file in it is damaged so that nothing can be shown.
    """
    config, record = _config(folder), _record(folder)
    settings = flat_settings(config)
    for key in _REQUIRED:
        value = settings.get(key)
        if type(value) is not int or value < 0:
            raise files.Unreadable(f"{_CONFIG} is not a config of cvae.train: {key} is {value!r}"[:200])
    rows = read_rows(folder)
    metrics = from_record(record.get("metrics"))
    objectives = config.get("objective")
    first = next(iter(objectives), None) if isinstance(objectives, list) else objectives
    objective = printable(str(first or "val/psnr"))[:KEY]
    trial = config["trial"] if isinstance(config.get("trial"), dict) else {}
    number = trial.get("number")
    overrides, unknown = _overrides(folder, record)
    video, unlisted = _video(folder)
    reason = failure_of(folder)
    changed = list(_changed(folder, record, rows.facts, settings, len(rows.rows)))
    damage = [rows.damage, *changed] if rows.damage else changed
    problems = [*([reason] if reason else []), *damage, *rows.problems, *unknown, *unlisted]
    return Run(
        folder=folder,
        name=folder.name,
        settings={key: value for key, value in settings.items() if key not in _IGNORED} | {DATA: _cut(record.get("dataset"))},
        options=_options(folder, record, settings),
        rows=[] if changed else rows.rows,  # which settings they belong to is not known
        inside=[] if changed else rows.inside,
        record=record,
        metrics=metrics,
        objective=objective,
        state="damaged" if damage else state_of(folder, rows.rows, settings["epochs"], record, reason),
        note="; ".join(filter(None, [*problems, _version(record)])),
        problems=problems,
        checkpoint=rows.checkpoint,
        video=video,
        evaluations=read_evaluations(folder),
        overrides=overrides,
        sweep=_cut(record["group"]) if record.get("group") else None,
        storage=str(trial.get("storage") or ""),
        trial=number if type(number) is int and 0 <= number < 10**9 else None,
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = files.read_yaml(folder, _CONFIG)
    except FileNotFoundError:
        raise _no_run(folder, f"no {_CONFIG}") from None
    if not isinstance(content, dict):
        raise files.Unreadable(f"{_CONFIG} holds no settings")
    return content


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = files.read_json(folder, "run.json")
    except FileNotFoundError:
        raise _no_run(folder, "no run.json: the run has not started, or ended before it could") from None
    if not isinstance(record, dict):
        raise files.Unreadable("run.json is damaged (it holds no record)")
    return record


def _no_run(folder: Path, otherwise: str) -> Exception:
    """Why a folder holds no run: the reason that a failed start left there, or the given one."""
    reason = failure_of(folder)
    return FailedStart(reason) if reason else files.Unreadable(otherwise)


def _cut(value: object) -> str:
    return str(value)[:_TEXT]


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config by their full keys, interpolations unresolved; ``X._target_`` becomes ``X: class_name``."""
    settings: dict[str, Any] = {}
    for key, value in flat(identity(config)).items():
        if key.endswith("._target_"):
            name = str(value).rpartition(".")[2]
            settings[key.removesuffix("._target_")] = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        elif isinstance(value, int) and not isinstance(value, bool):
            settings[key] = value if abs(value) < 1 << 63 else "a number too large"
        else:
            settings[key] = value if value is None or isinstance(value, (bool, float)) else _cut(value)
    if len(settings) > _SETTINGS:
        raise files.Unreadable(f"{_CONFIG} has more than {_SETTINGS} settings, and no more are read")
    return settings


def _options(folder: Path, record: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The option of each group by its name: what run.json says, else Hydra's own record, else the names of the classes."""
    known = believed(record.get("options")) or chosen(folder) or {}
    classes = {group: settings.get("model.backbone" if group == "model" else group) for group in _GROUPS}
    return {group: str(name) for group, name in classes.items() if isinstance(name, str)} | known


def _changed(
    folder: Path, record: Mapping[str, Any], facts: Mapping[str, Any], settings: Mapping[str, Any], epochs: int
) -> Iterator[str]:
    """What in a run's files is not what the run wrote, as far as one of them tells of another."""
    try:
        integrity.check_record(dict(record))
    except integrity.Damaged as error:
        yield f"run.json is damaged ({error})"
    resumed = record["resumed"] if isinstance(record.get("resumed"), list) else []
    starts = [start for start in (record, *resumed, facts) if isinstance(start, Mapping)]
    known = {start["config_sha256"] for start in starts if isinstance(start.get("config_sha256"), str)}
    if known and integrity.sha256_of(folder / _CONFIG) not in known:
        yield f"{_CONFIG} is not the one that the run had: its settings may be others"
    if epochs > settings["epochs"]:
        yield f"metrics.jsonl has {epochs} epochs, and the run should have {settings['epochs']}"
    if isinstance(dataset := facts.get("dataset"), str) and dataset != record.get("dataset"):
        yield "run.json names other data than the checkpoint"


def _version(record: Mapping[str, Any]) -> str:
    version = record.get("versions", {}).get("cvae") if isinstance(record.get("versions"), dict) else None
    return "" if version in (None, __version__) else f"written by cvae {_cut(version)}"


def _overrides(folder: Path, record: Mapping[str, Any]) -> tuple[list[str] | None, list[str]]:
    """The overrides of the run's command, with its own config folders, and why they cannot be read."""
    known = record.get("overrides_sha256")
    try:
        words = repeat.overrides(folder)
        if isinstance(known, str) and integrity.sha256_of(folder / OVERRIDES) != known:
            return None, [f"{OVERRIDES} is not the one that the run had"]
        return words, []
    except FileNotFoundError:
        return ([], []) if known is None else (None, [f"{OVERRIDES} is missing"])
    except (files.Unreadable, TypeError) as error:
        return None, [str(error) if isinstance(error, files.Unreadable) else f"{OVERRIDES} is no list"]


def _video(folder: Path) -> tuple[str, list[str]]:
    """The name of a run's latest sample video, and why it cannot be found."""
    if not (folder / "samples").is_dir():
        return "", []
    try:
        names = [entry.name for entry in files.entries(folder / "samples", _PICTURES)]
    except files.Unreadable as error:
        return "", [f"samples: {error}"]
    return max((f"samples/{name}" for name in names if re.fullmatch(r"epoch_.*\.gif", name)), default=""), []
