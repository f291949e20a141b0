"""Files of pretrained weights: the user's own command names them, or they lie in the usual cache. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cvae.errors import UserError, expanded
from cvae.integrity import opened

_CHUNK = 1 << 20


def named_file(path: str | os.PathLike[str], key: str, hint: str) -> Path:
    """The absolute path of the file that the setting ``key`` names.

    Raises:
        UserError: there is no such file, or it is none; ``hint`` says where to get it.
    """
    file = expanded(path, key)
    if not is_file(file):
        raise UserError(f"{key}={file} is missing, or no file that can be read: {hint}")
    return file


def is_file(path: Path) -> bool:
    """Whether there is a regular file; no where a folder may not be looked into."""
    try:
        return path.is_file()
    except OSError:
        return False


def sha256_of_file(path: Path, key: str) -> str:
    """The hash of a file of any size, which says what a number was measured with.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with opened(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={path} cannot be read ({getattr(error, 'strerror', None) or error}): check the file") from error
    return digest.hexdigest()
