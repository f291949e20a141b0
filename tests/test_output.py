"""Standard output that nobody reads, or that takes no more: one line at most, whoever ends the command."""

from __future__ import annotations

import os
import sys

import pytest

from cvae import cli


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
    return stop.value.code


@pytest.mark.parametrize(("main", "code", "said"), [(returns, 141, ""), (exits, 141, ""), (reads_bad_input, 1, "error: bad\n")])
def test_a_closed_pipe_ends_a_command_quietly(main, code, said, monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    assert ended(main, writer, monkeypatch) == code
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("main", [returns, exits, reads_bad_input])
def test_a_full_output_is_one_line(main, monkeypatch, capfd):
    assert ended(main, os.open("/dev/full", os.O_WRONLY), monkeypatch) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: bad" if main is reads_bad_input else "error: standard output: No space left on device")
