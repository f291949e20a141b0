"""``python -m cvae.report``: runs compared, as one HTML page, as Markdown, or served while they go on."""
