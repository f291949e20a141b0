"""Read what runs leave on the disk: one run folder, many of them together, and their evaluations. Nothing is written."""
