"""The structure of PyTorch encoders: heads, units, low-rank weights, FLOPs and tokenizer."""
