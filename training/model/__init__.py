"""The network: loading, attention, dropout, adapters and frozen layers, sparsity."""
