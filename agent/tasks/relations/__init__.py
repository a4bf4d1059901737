"""Relation extraction: texts in which two entities are marked, windows around both, the official score of SemEval-2010 task 8."""
