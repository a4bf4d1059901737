"""The training loop of a worker: set-up, steps, evaluation, checkpoints, epochs."""
