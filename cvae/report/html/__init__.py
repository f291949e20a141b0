"""The report page: its data as plain values, and one HTML file made of them and of ``assets/``."""
