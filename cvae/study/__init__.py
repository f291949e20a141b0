"""The course report's questions: its claims as measured quantities, and the page of verdicts."""
