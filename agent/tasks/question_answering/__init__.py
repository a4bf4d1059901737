"""Extractive question answering: answers that stand in a context, decoded, scored as SQuAD is, or none."""
