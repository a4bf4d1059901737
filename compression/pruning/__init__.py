"""Scores, selects and refits heads and feed-forward units."""
