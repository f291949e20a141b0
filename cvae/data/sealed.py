"""Small JSON files that carry a hash of what they say: what another hand or a bad disk changed is not believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvae import files

_MOST = 1 << 28  # bytes: names, lengths and checksums of millions of sequences


class Damaged(ValueError):
    """A file is missing, cut or changed. The message says how, without the place."""


def seal(content: Mapping[str, Any]) -> str:
    """The text of a sealed file."""
    return json.dumps({**content, "checksum": _checksum(content)}, sort_keys=True)


def read_sealed(path: Path) -> dict[str, Any]:
    """What ``seal`` was given.

    Raises:
        Damaged: it cannot be read, or is not as it was written.
    """
    try:
        content = json.loads(files.read(path.parent, path.name, _MOST))
        if not isinstance(content, dict) or content.pop("checksum", None) != _checksum(content):
            raise Damaged(f"{path.name} is not as it was written")
    except files.Unreadable as error:
        raise Damaged(str(error)) from error
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is not as it was written") from error
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
