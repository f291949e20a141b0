"""Runs beside each other: the report page."""
