"""What training minimises. Adding an objective is one file here and one line in the union below (a union of one, so far)."""

from training.objectives.cross_entropy import CrossEntropy

Objective = CrossEntropy

__all__ = ["CrossEntropy", "Objective"]
