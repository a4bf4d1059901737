"""Chooses thresholds by which an agent's decisions cost least, from a log of decisions or from labelled data."""
