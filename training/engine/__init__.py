"""One optimizer step under DeepSpeed: forward and backward passes, gradient exchange, optimizer state, learning rate."""
