"""Data-parallel fine-tuning with Ray Train and DeepSpeed."""
