"""The HTML page of a report: its data as plain values, and one file made of them and of ``assets/``."""
