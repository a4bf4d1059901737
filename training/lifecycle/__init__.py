"""One training run on the driver: preparation, resuming, workers, bundle, dry run."""
