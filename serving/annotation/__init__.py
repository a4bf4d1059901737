"""Annotates a corpus offline with an agent, on the workers of a Ray cluster."""
