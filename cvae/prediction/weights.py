"""``export=FILE.safetensors``: the weights of a model with its config in one file that runs no code when it is read.

The file's text fields hold ``format`` (of this package), ``cvae`` (the version) and ``config``: the settings that decide what a
run computes, as JSON, without places, logger and device; ``conditions``: what they are called, as JSON; ``sha256``, a checksum
of all that the file holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cvae import __version__, files
from cvae.config import RunConfig, identity, is_place
from cvae.console import warn
from cvae.errors import UserError, brief, whole, writing
from cvae.model.cvae import CVAE
from cvae.strangers import forget_caches, refuse_resolvers

_FORMAT = "cvae 1"
_MOST = 1 << 30  # bytes of weights that are read; the largest model here has 90 MB


def write(model: CVAE, config: DictConfig, path: Path, conditions: Sequence[str] = ()) -> None:
    """Write the weights and the config of a model, and what its conditions are called.

    Raises:
        UserError: the name does not end in .safetensors, safetensors is not installed, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"export={path}: the name must end in .safetensors")
    save = _library().save
    # A part with two names is written twice: safetensors takes no shared memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    settings = identity(config)
    _forget_places(settings["data"], "data")
    text = {"format": _FORMAT, "cvae": __version__, "config": json.dumps(settings, sort_keys=True)}
    text["conditions"] = json.dumps(list(conditions))
    text["sha256"] = _sum(*_parts(save(tensors, text)))
    with writing(path, "choose another file with export="):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as scratch:
            scratch.write_bytes(save(tensors, text))


def read(path: Path) -> tuple[DictConfig, dict[str, Any], Any]:
    """The config, the weights and the conditions' names of an exported file, which may come from a stranger: it is data alone.

    Raises:
        UserError: it is not such a file, or safetensors is not installed.
    """
    load = _library().load
    try:
        real = path.resolve()  # the user may name a link
        content = files.read(real.parent, real.name, _MOST)
        tensors = load(content)
        header, data = _parts(content)
        text = header.get("__metadata__") or {}
        if text.get("format") != _FORMAT:
            raise UserError(
                f"{path} holds no config of this package (format {_FORMAT!r}): python -m cvae.predict export= writes one"
            )
        if "sha256" not in text:
            warn(f"{path} is of an earlier version and has no checksum: nothing tells whether it is whole; export it again")
        elif text["sha256"] != _sum(header, data):
            raise UserError(f"{path} is damaged (its checksum is another): export it again, or restore it from a copy")
        settings = json.loads(text["config"])
        refuse_resolvers(settings, str(path))
        forget_caches(settings)
        if isinstance(settings.get("data"), dict):
            settings["data"]["root"] = None  # no place is exported; a stranger's would read the environment
        cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), settings)
        conditions = json.loads(text.get("conditions") or "[]")
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"run={path} does not exist: check the path") from error
    except Exception as error:  # whatever a damaged file leads the readers to raise
        raise UserError(f"{path} is not a whole .safetensors file ({brief(error)}): export it again") from error
    assert isinstance(cfg, DictConfig)
    return cfg, tensors, conditions


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A file's header, which says what lies where, and the weights; the header's length comes before both."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _sum(header: Mapping[str, Any], data: bytes) -> str:
    text = {key: value for key, value in header["__metadata__"].items() if key != "sha256"}
    told = json.dumps({**header, "__metadata__": text}, sort_keys=True)
    return hashlib.sha256(told.encode() + data).hexdigest()


def _forget_places(settings: Any, key: str) -> None:
    """Set to null what says where data lie, however deep."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if is_place(f"{key}.{name}"):
            settings[name] = None
        else:
            _forget_places(value, f"{key}.{name}")


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("this needs safetensors, which is not installed: pip install safetensors") from error
    return safetensors.torch
