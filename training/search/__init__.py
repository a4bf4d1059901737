"""Several training runs: hyper-parameter search with Ray Tune, and cross-validation."""
