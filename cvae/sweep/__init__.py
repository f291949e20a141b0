"""Optuna sweeps for any Hydra app: space, study with claims and leases, engine, jobs, local launcher, summary."""
