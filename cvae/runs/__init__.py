"""What lies on the disk, read: a run folder in any state, runs beside each other, results of protocols. Nothing is written."""
