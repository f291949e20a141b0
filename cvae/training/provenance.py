"""Which code made a run: its commit, where that can be fetched, and the versions of the packages."""

from __future__ import annotations

import contextlib
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PACKAGES = ("cvae", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "optuna", "wandb", "pillow")


def versions() -> dict[str, str]:
    """The installed versions of the packages that a run depends on."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git() -> dict[str, Any]:
    """Commit and remote of the checkout that the code runs from, and whether it has uncommitted changes; None outside one.

    Changes below docs do not count: they change no run, and a study puts its finished runs there.
    """
    tracked = _ask("ls-files", "--error-unmatch", __file__) is not None
    status = _ask("status", "--porcelain", "--", ":(top)", ":(top,exclude)docs") if tracked else None
    remote = _ask("config", "--get", "remote.origin.url") if tracked else None
    return {
        "git_sha": _ask("rev-parse", "HEAD") if tracked else None,
        "git_remote": without_credentials(remote) if remote else None,
        "dirty": None if status is None else bool(status),
    }


def _ask(*words: str) -> str | None:
    try:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def without_credentials(url: str) -> str | None:
    """A remote without user, password and tokens; None for a folder of this machine, which says nothing elsewhere.

    ``git@host:path`` keeps its user: it is the service's account, and nobody's name.
    """
    if "://" in url:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if not host or parts.scheme == "file":
            return None
        host = f"[{host}]" if ":" in host else host
        user = "git@" if parts.scheme == "ssh" and parts.username == "git" else ""
        return f"{parts.scheme}://{user}{host}{f':{port}' if port else ''}{parts.path}"
    if found := re.fullmatch(r"(?:([^@/\\]*)@)?([\w.-]+):([^?#]+)(?:[?#].*)?", url):
        return f"{'git@' if found[1] == 'git' else ''}{found[2]}:{found[3]}"
    return None
