"""``python -m cvae.data COMMAND ...``: bring real data in, make some, look at them."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from cvae.cli import guarded
from cvae.errors import UserError

# Each command is a module with add_arguments(parser) and run(arguments). It is imported when it is asked for.
COMMANDS = {
    "convert": ("cvae.data.convert", "bring BAIR, LeRobot, videos or arrays into a folder that training reads"),
    "make": ("cvae.data.make", "make simulated data"),
    "check": ("cvae.data.check", "read every file of a data set and list every problem"),
    "show": ("cvae.data.show", "draw a sequence and its actions as a GIF"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for any other bad input."""
        raise UserError(f"{message}; {self.prog} --help shows how it is used")


def parser_for(words: list[str]) -> argparse.ArgumentParser:
    """The parser of a command line: only the command that it names is imported."""
    parser = _Parser(prog="python -m cvae.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, about) in COMMANDS.items():
        formatter = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(name, help=about, description=about, formatter_class=formatter)
        if name in words[:1]:
            found = importlib.import_module(module)
            found.add_arguments(command)
            command.set_defaults(run=found.run)
    return parser


def _run() -> None:
    words = sys.argv[1:]
    asked = parser_for(words).parse_args(words)
    asked.run(asked)


def main() -> NoReturn:
    """Run a command and exit; bad input is one line and exit code 1."""
    guarded(_run)


if __name__ == "__main__":
    main()
