"""W&B's service, a process beside this one: that it is quiet, whether its server knows the user, and how it is ended."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
from urllib.parse import urlparse

import psutil


def silence() -> None:
    """Keep W&B from printing and from reporting its own errors, before it is imported."""
    os.environ.setdefault("WANDB_SILENT", "true")  # its lines would break the progress bar
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to a server of its own, which it waits for at exit


def server() -> str:
    """The address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def logged_in() -> bool:
    """Whether there is a key for the server, in WANDB_API_KEY or where ``wandb login`` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def abandon() -> None:
    """Give up a server that does not answer: otherwise W&B waits for it at exit, for minutes."""
    kill_service()
    tear_down()


def tear_down() -> None:
    """Forget a broken service, so that W&B's exit handler does not fail on it and the next run starts a new one."""
    with contextlib.suppress(Exception, SystemExit):  # it exits where the service was killed
        import wandb

        wandb.teardown()


def kill_service() -> None:
    """End a wandb-core that hangs: W&B's exit handler would wait for it for ever."""
    logging.getLogger("wandb").setLevel(logging.CRITICAL + 1)  # it would tell of the connection that ends, with a traceback
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "wandb-core":
                child.kill()
