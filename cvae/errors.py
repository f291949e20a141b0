"""The errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one line that names the file, key or value, and the mend.

    Entry points print the message alone and exit with status 1; a multirun counts the job as failed and goes on.
    """


class Diverged(UserError):
    """A loss became NaN or infinite. The message names the term; the state was written for inspection."""
