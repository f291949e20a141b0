"""The questions of the course report, tested on a study with several seeds: claims, verdicts, and the page that shows them."""
