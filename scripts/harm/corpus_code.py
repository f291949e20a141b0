"""Hostile folders that would run, connect, write elsewhere or tell secrets by what their configs and pickles say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harm.stranger import Stranger, Trap

_ASKS = "${oc.env:SECRET_TOKEN}"


def traps() -> Iterator[Trap]:
    for name, (key, node) in _NODES.items():
        yield Trap("a run's config", name, partial(_node, key=key, node=node))
    yield Trap("a run's config", "the folder allows itself", _allows_itself)
    for name, (file, text) in _TEXTS.items():
        yield Trap("a run's config", name, partial(_text, file=file, text=text))
    for name, make in _PICKLES.items():
        yield Trap("a checkpoint", name, make)
    for name, settings in _BEST.items():
        yield Trap("a best.yaml", name, partial(_best, settings=settings), ("best",))
    for name, entry in _DEFAULTS.items():
        yield Trap("a best.yaml", f"among its defaults {name}", partial(_defaults, entry=entry), ("best",))


def _filled(stranger: Stranger, value: Any) -> Any:
    """A value with the names of this place."""
    if isinstance(value, dict):
        return {_filled(stranger, key): _filled(stranger, child) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled(stranger, child) for child in value]
    if isinstance(value, str):
        names = {"SHELL": stranger.shell, "OUTSIDE": str(stranger.outside), "PORT": str(stranger.port)}
        for name, text in {**names, "STRANGER": str(stranger.folder)}.items():
            value = value.replace(f"<{name}>", text)
    return value


def _node(stranger: Stranger, key: str, node: Any) -> None:
    stranger.config(key, _filled(stranger, node))
    if "optuna" not in str(node) and key in ("logger", "data"):  # the same by a sweep's file
        stranger.best({f"{key}._target_": node["_target_"]} if "_target_" in node else {})


# A key of the run's config, and what it is set to. In the user's working folder ``stranger.payload`` can be imported.
_NODES: dict[str, tuple[str, Any]] = {
    "data is a payload": ("data", {"_target_": "stranger.payload.fire"}),
    "a metric is a payload": ("metrics.evil", {"_target_": "stranger.payload.fire"}),
    "an array's source is a payload": (
        "data",
        {"_target_": "cvae.data.arrays.ArrayData", "source": {"_target_": "stranger.payload.fire", "_partial_": True}},
    ),
    "an array's source is a pickle": (
        "data",
        {
            "_target_": "cvae.data.arrays.ArrayData",
            "source": {"_target_": "torch.load", "_partial_": True, "f": "<STRANGER>/evil.pt", "weights_only": False},
        },
    ),
    "the logger imports lazily": ("logger", {"_target_": "optuna._imports._LazyImport", "name": "stranger.payload"}),
    "the optimizer imports lazily": ("optim", {"_target_": "optuna._imports._LazyImport", "name": "stranger.payload"}),
    "the logger makes a database": ("logger", {"_target_": "optuna.storages.RDBStorage", "url": "sqlite:///<OUTSIDE>/made.db"}),
    "the logger connects to a database": (
        "logger",
        {"_target_": "optuna.storages.RDBStorage", "url": "postgresql://u:p@127.0.0.1:<PORT>/x"},
    ),
    "the logger writes a file": (
        "logger",
        {"_target_": "cvae.training.recorder.write_whole", "path": "<OUTSIDE>/made", "text": "x", "hint": "x"},
    ),
    "the model is a shell": ("model", {"_target_": "os.system", "command": "<SHELL>"}),
    "the prior is a process": ("prior", {"_target_": "subprocess.call", "args": ["sh", "-c", "<SHELL>"]}),
    "the backbone is a pickle": (
        "model.backbone",
        {"_target_": "torch.load", "f": "<STRANGER>/evil.pt", "weights_only": False},
    ),
    "the optimizer is PyTorch's loader": (
        "optim",
        {"_target_": "torch.optim.optimizer.torch.load", "f": "<STRANGER>/evil.pt", "weights_only": False},
    ),
    "the likelihood is a hub": (
        "likelihood",
        {"_target_": "torch.hub.load", "repo_or_dir": "<STRANGER>", "model": "fire", "source": "local"},
    ),
    "a schedule is code": ("kl_schedule", {"_target_": "builtins.exec", "_args_": ["import stranger.payload"]}),
    "a schedule imports": ("tf_schedule", {"_target_": "cvae.config.importlib.import_module", "name": "stranger.payload"}),
    "data is Hydra's own builder": (
        "data",
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "stranger.payload.fire"}},
    ),
    "the logger finds a method": ("logger", {"_target_": "hydra.utils.get_method", "path": "stranger.payload.fire"}),
    "a target in a list": ("optim.betas", [{"_target_": "stranger.payload.fire"}, 0.999]),
    "a target in an argument": ("model.backbone.norm", {"_target_": "stranger.payload.fire"}),
    "a target in a dial": ("lr", {"_target_": "stranger.payload.fire"}),
    "an escaped interpolation": ("optim.weight_decay", "\\" + _ASKS),
    "a resolver in a dial": ("data.condition", _ASKS),
    "a resolver in the logger": ("logger", {"_target_": "cvae.training.recorder.NoMirror", "name": _ASKS}),
    "a secret as the data's place": ("data.root", _ASKS),
    "a nested resolver": ("seed", "${oc.create:${oc.decode:'{_target_: stranger.payload.fire}'}}"),
    "W&B of the stranger's": (
        "logger",
        {
            "_target_": "cvae.training.wandb_mirror.WandbMirror",
            "entity": "mallory",
            "mode": "online",
            "name": _ASKS,
            "project": "cvae",
        },
    ),
    "a world in another place": (
        "data",
        {
            "_target_": "cvae.data.synthetic.synthetic_push",
            "root": "<OUTSIDE>/world",
            "train": 3,
            "validate": 2,
            "test": 0,
        },
    ),
    "a cache in another place": ("data.cache_dir", "<OUTSIDE>/cache"),
    "data on a server": ("data.root", "http://127.0.0.1:<PORT>/data"),
    "a trial in a database": (
        "trial",
        {"number": 0, "study": "study", "storage": "postgresql://u:p@127.0.0.1:<PORT>/x"},
    ),
    "TensorBoard in another place": (
        "logger",
        {"_target_": "cvae.training.tensorboard_mirror.TensorboardMirror", "folder": "<OUTSIDE>/board"},
    ),
}


def _allows_itself(stranger: Stranger) -> None:
    stranger.config("allow_targets", ["stranger"])
    stranger.config("data", {"_target_": "stranger.payload.fire"})
    stranger.best({"allow_targets": ["stranger"], "logger._target_": "stranger.payload.Fire"})


# Text that is added to a file of the run.
_TEXTS = {
    "a YAML tag in config.yaml": (".hydra/config.yaml", "\nx: !!python/object/apply:os.system ['<SHELL>']\n"),
    "a YAML tag in overrides.yaml": (".hydra/overrides.yaml", "\n- !!python/object/apply:os.system ['<SHELL>']\n"),
    "a callback in config.yaml": (
        ".hydra/config.yaml",
        "\nhydra:\n  callbacks:\n    x: {_target_: stranger.payload.Fire}\n",
    ),
    "a path to options in config.yaml": (".hydra/config.yaml", "\nhydra:\n  searchpath: ['file://<STRANGER>']\n"),
    "a folder to go to in config.yaml": (".hydra/config.yaml", "\nhydra:\n  run: {dir: <OUTSIDE>/run}\n"),
    "commands to paste in overrides.yaml": (
        ".hydra/overrides.yaml",
        "\n- allow_targets=[torch]\n- logger._target_=torch.load\n- +logger.f=<STRANGER>/evil.pt\n",
    ),
    "escapes in overrides.yaml": (".hydra/overrides.yaml", '\n- "seed=1\\e]0;owned\\a\\e[31mowned"\n'),
    "escapes in config.yaml": (".hydra/config.yaml", '\nobjective: "\\e]0;owned\\a\\e[31mowned"\n'),
}


def _text(stranger: Stranger, file: str, text: str) -> None:
    path = stranger.run / file
    path.write_text(path.read_text() + _filled(stranger, text))


def _raw_pickle(stranger: Stranger, name: str) -> None:
    (stranger.run / "checkpoints" / name).write_bytes(stranger.pickle())


_PICKLES = {
    "last.pt is a pickle": partial(_raw_pickle, name="last.pt"),
    "best.pt is a pickle": partial(_raw_pickle, name="best.pt"),
    "a pickle in last.pt's archive": lambda stranger: stranger.archive("last.pt"),
    "a pickle in best.pt's archive": lambda stranger: stranger.archive("best.pt"),
    "last.pt is a program": lambda stranger: stranger.archive("last.pt", "constants.pkl"),
    "best.pt is a program": lambda stranger: stranger.archive("best.pt", "constants.pkl"),
}


# --- a sweep's file -----------------------------------------------------------------------------------------------------------

# What best.yaml sets besides.
_BEST: dict[str, dict[str, Any]] = {
    "a node of Hydra's": {"hydra": {"callbacks": {"x": {"_target_": "stranger.payload.Fire"}}}},
    "a key of Hydra's": {"hydra.callbacks.x._target_": "stranger.payload.Fire"},
    "a key of Hydra's that is added": {"+hydra.callbacks.x._target_": "stranger.payload.Fire"},
    "a key of Hydra's, added by force": {"++hydra.callbacks.x._target_": "stranger.payload.Fire"},
    "a key that is removed": {"~hydra.job_logging": "x"},
    "a flag": {"--config-dir": "<STRANGER>", "-m": "x"},
    "two words in a key": {"seed=1 +hydra.callbacks.x._target_": "stranger.payload.Fire"},
    "a key over lines": {"seed\n+hydra.callbacks.x._target_": "stranger.payload.Fire"},
    "two words in a value": {"data.condition": "none' '+hydra.callbacks.x._target_=stranger.payload.Fire"},
    "a folder to run in": {"hydra.run.dir": "<OUTSIDE>/run"},
    "a path to options": {"hydra.searchpath": ["file://<STRANGER>"]},
    "targets that it allows": {"allow_targets": ["stranger", "torch"], "optim._target_": "stranger.payload.Fire"},
    "a logger": {"logger": {"_target_": "torch.load", "f": "<STRANGER>/evil.pt", "weights_only": False}},
    "W&B": {
        "logger": {"_target_": "cvae.training.wandb_mirror.WandbMirror", "entity": "mallory", "mode": "online", "name": _ASKS}
    },
    "a lazy import": {"optim": {"_target_": "optuna._imports._LazyImport", "name": "stranger.payload"}},
    "a cache": {"data.cache_dir": "<OUTSIDE>/cache"},
    "a world's place": {
        "data": {
            "_target_": "cvae.data.synthetic.synthetic_push",
            "root": "<OUTSIDE>/world",
            "train": 3,
            "validate": 2,
            "test": 0,
        }
    },
    "a resolver": {"data.condition": _ASKS},
    "an escaped resolver": {"data.condition": "\\" + _ASKS},
    "a trial": {"trial": {"number": 0, "study": "study", "storage": "postgresql://u:p@127.0.0.1:<PORT>/x"}},
    "a run to resume": {"resume": "<STRANGER>/run"},
    "something to show": {"show": "schedules"},
    "a metric": {"metrics": {"evil": {"_target_": "stranger.payload.fire"}}},
    "a list of targets": {"optim.betas": [{"_target_": "stranger.payload.fire"}, 0.999]},
}
# Entries of best.yaml's list of defaults.
_DEFAULTS: dict[str, Any] = {
    "a group into Hydra's callbacks": {"override /data@hydra.callbacks.evil": "course"},
    "a group more in Hydra's callbacks": {"/data@hydra.callbacks.evil": "course"},
    "a group of Hydra's": {"override /hydra/launcher": "joblib"},
    "a path out of a group": {"override /data": "../../stranger/data"},
    "an absolute path": {"override /data": "<STRANGER>/data"},
    "a group more": {"/../stranger": "data"},
    "words in an option": {"override /data": "course +hydra.callbacks.x._target_=stranger.payload.Fire"},
}


def _best(stranger: Stranger, settings: dict[str, Any]) -> None:
    stranger.best(_filled(stranger, settings))


def _defaults(stranger: Stranger, entry: Any) -> None:
    Path(stranger.folder / "data.yaml").write_text("_target_: stranger.payload.fire\n")
    stranger.best({}, (_filled(stranger, entry),))
