"""Makes a fine-tuned agent small and fast, and proves that it stayed good. What it must train, `training/run.py` trains."""
