"""Standard output that nobody reads, or that takes no more: one line at most, whoever ends the command."""

from __future__ import annotations

import os
import sys

import pytest
from hydra.core.utils import JobReturn, JobStatus

from cvae import cli
from cvae.console import console, say


def returns() -> None:
    print("words")


def exits() -> None:
    """As Hydra does after --help."""
    print("words")
    sys.exit(0)


def reads_bad_input() -> None:
    print("words")
    cli.fail(cli.UserError("bad"))


def ended(main, descriptor: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a guarded command with this output, which Python flushes once more as it ends."""
    with os.fdopen(descriptor, "w") as output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as stop:
            cli.guarded(main)
        output.flush()
    console.cache_clear()
    return stop.value.code


def says() -> None:
    console.cache_clear()
    say("words")


def fails_to_print() -> None:
    """In another package's code, which does not say what it was about."""
    print("words", flush=True)


@pytest.mark.parametrize(
    ("main", "code", "said"), [(returns, 141, ""), (says, 141, ""), (exits, 141, ""), (reads_bad_input, 1, "error: bad\n")]
)
def test_a_closed_pipe_ends_a_command_quietly(main, code, said, monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    assert ended(main, writer, monkeypatch) == code
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("main", [returns, exits, says, fails_to_print, reads_bad_input])
def test_a_full_output_is_one_line(main, monkeypatch, capfd):
    assert ended(main, os.open("/dev/full", os.O_WRONLY), monkeypatch) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: bad" if main is reads_bad_input else "error: standard output: No space left on device")


def test_a_job_that_fails_in_hydras_hands_is_one_line(capfd):
    """As the sweepers of Hydra take it; its own line before the error says nothing more."""

    def take() -> object:
        return JobReturn(
            ["seed=1"], status=JobStatus.FAILED, _return_value=OSError(28, "No space left on device", "x")
        ).return_value

    with pytest.raises(SystemExit) as stop:
        cli.guarded(take)
    said = capfd.readouterr().err
    assert (stop.value.code, said.count("\n")) == (1, 1)
    assert said.startswith("error: x: No space left on device")
