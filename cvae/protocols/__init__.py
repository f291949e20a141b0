"""Runs under named protocols: each has a result file in RUN/eval/, a table, and differences to other runs."""
