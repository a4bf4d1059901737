"""Makes a fine-tuned agent small and fast, and proves that it stayed good. Trains nothing."""
