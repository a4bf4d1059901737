"""Measures agents that write: probabilities of right texts, texts that they write, and how fast."""
