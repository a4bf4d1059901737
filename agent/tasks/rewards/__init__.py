"""Rewards of answers that a model in training draws."""
