"""Scheduling of texts that are written: batches of one kind, slices of time, answers as they end."""
