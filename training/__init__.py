"""Data-parallel fine-tuning: Ray Train runs the workers, DeepSpeed is their engine."""
