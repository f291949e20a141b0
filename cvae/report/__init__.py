"""``python -m cvae.report``: compare runs in one HTML page, in Markdown, or on a local server while they train."""
