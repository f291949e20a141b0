"""Optuna sweeps for any Hydra app: plan, study, engine, jobs, launcher of local processes, summary, and studies read back."""
