"""``python -m cvae.predict run=RUN sequence=0``: predict sequences of a run's data, or a user's own pictures and actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from cvae import cli, config
from cvae.console import say, short
from cvae.data.layout import SPLITS
from cvae.errors import UserError, expanded, require

if TYPE_CHECKING:
    from cvae.prediction.scene import Source


@dataclass
class PredictConfig:
    """The settings of a prediction; ``python -m cvae.predict --help`` explains them."""

    run: Any = MISSING
    split: str = "test"
    sequence: Any = 0
    samples: int = 5
    n_future: int | None = None
    actions: str | None = None
    frames: str | None = None
    png: bool = False
    out: str | None = None
    export: str | None = None
    checkpoint: str = "best"
    seed: int = 1
    device: str = "auto"
    data: dict[str, Any] = field(default_factory=lambda: {"root": None, "cache_dir": None, "workers": None})
    allow_targets: list[str] = field(default_factory=list)


ConfigStore.instance().store(name="predict_schema", node=PredictConfig)


def predict(cfg: DictConfig) -> None:
    """Load the model, then write its weights, or what it predicts.

    Raises:
        UserError: a setting, the run, or what is to be predicted is bad.
    """
    # Imported here so that --help needs none of it.
    from cvae.prediction import weights
    from cvae.prediction.outputs import write_scene, write_split
    from cvae.prediction.predictor import load
    from cvae.prediction.scene import of_data, own, under_actions
    from cvae.training.runtime import choose_device

    _check(cfg)
    run = _run(cfg.run)
    model = load(run, cfg.checkpoint, cfg.allow_targets, choose_device(cfg.device))
    if cfg.export is not None:
        path = expanded(cfg.export, "export")
        weights.write(model.model, model.config, path, model.conditions)
        say(f"written {short(path)}: the weights of {cfg.checkpoint}.pt and their config")
        return
    actions = None if cfg.actions is None else expanded(cfg.actions, "actions")
    facts = {"run": short(run), "checkpoint": cfg.checkpoint if run.is_dir() else None}
    if cfg.frames is not None:
        pictures = expanded(cfg.frames, "frames")
        scene = own(model, pictures, actions, cfg.n_future)
        out = _out(cfg.out, run, pictures.stem)
        write_scene(model, scene, cfg.samples, cfg.seed, cfg.png, out, {**facts, "frames": short(pictures)})
        return
    source = _source(cfg, run)
    if cfg.sequence == "all":
        write_split(model, source, cfg.n_future, cfg.seed, _out(cfg.out, run, f"{cfg.split}_all"))
        return
    chosen = cfg.sequence if OmegaConf.is_list(cfg.sequence) else [cfg.sequence]
    for row in chosen:
        asked = (model, source, row, cfg.n_future)
        scene = of_data(*asked) if actions is None else under_actions(*asked, actions)
        out = _out(cfg.out, run, f"{cfg.split}_{row}", several=len(chosen) > 1)
        write_scene(model, scene, cfg.samples, cfg.seed, cfg.png, out, {**facts, "split": cfg.split, "sequence": row})


def _source(cfg: DictConfig, run: Path) -> Source:
    """A split of the run's data, where the command or else its folder says that they lie."""
    from cvae.data.contract import Dataset
    from cvae.prediction.scene import Source
    from cvae.resume import recorded_config

    if not run.is_dir():
        raise UserError(f"run={run} is a file, which has no data: give frames=FOLDER_OR_VIDEO, or a run folder")
    recorded = recorded_config(run, config.places(cfg.data))
    data: Dataset = config.build(recorded.data, cfg.allow_targets, Dataset)
    return Source(data, getattr(data, cfg.split), cfg.split)


def _run(value: Any) -> Path:
    """The one run folder that ``run=`` names, or a file of weights.

    Raises:
        UserError: it names none, or several.
    """
    from cvae.runs.collection import run_folders

    words = [str(word) for word in (value if OmegaConf.is_list(value) else [value])]
    if len(words) == 1 and (path := expanded(words[0], "run")).is_file():
        return path
    folders = run_folders(words)
    if len(folders) > 1:
        more = ", ".join(short(folder) for folder in folders[:3]) + " ..." * (len(folders) > 3)
        raise UserError(f"run={','.join(words)} names {len(folders)} runs and a prediction is of one: {more}")
    return folders[0]


def _out(out: str | None, run: Path, name: str, several: bool = False) -> Path:
    """The folder to write to; several predictions have a folder each."""
    if out is not None:
        return expanded(out, "out") / name if several else expanded(out, "out")
    job = Path(run.parent.name, run.name) if run.name.isdigit() else Path(run.stem if run.is_file() else run.name)
    return Path("predictions").absolute() / job / name


def _check(cfg: DictConfig) -> None:
    for key in map(str, cfg):
        if key not in PredictConfig.__dataclass_fields__:
            raise UserError(f"+{key}: a prediction has no such key; --help lists them")
    config.places(cfg.data, alone=True)
    require(cfg.split in SPLITS, "split", cfg.split, f"choose {', '.join(SPLITS)}")
    require(1 <= cfg.samples <= 1000, "samples", cfg.samples, "give a number of futures, 1 to 1000")
    require(cfg.n_future is None or cfg.n_future >= 1, "n_future", cfg.n_future, "give a number of frames, at least 1")
    chosen = cfg.sequence if OmegaConf.is_list(cfg.sequence) else [cfg.sequence]
    good = cfg.sequence == "all" or (len(chosen) and all(type(each) is int for each in chosen))
    require(bool(good), "sequence", cfg.sequence, "give a number, [several], or all")
    if cfg.sequence == "all" and cfg.actions is not None and cfg.frames is None:
        raise UserError("sequence=all takes each sequence's own actions: leave actions= out, or name sequences")


main = cli.main_of(predict, "predict", "a prediction cannot be swept: leave out -m, and give sequence=[0,1,2] for several")


if __name__ == "__main__":
    main()
