"""Frames and conditions: the contract of a dataset, the course layout on the disk, packed arrays, the synthetic world."""
