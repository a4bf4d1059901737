"""Bundles judged on logged decisions, on test splits and on texts: off-policy evaluation, comparison, drift."""
