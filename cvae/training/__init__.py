"""The training loop and what it needs: batches, checkpoints, device and precision, several processes, records, mirrors."""
