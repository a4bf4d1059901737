"""What outlives a worker: checkpoints and their store, the position of a run, state across restarts."""
