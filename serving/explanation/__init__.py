"""Explains decisions by interventions on the text: which words are hidden, what that does to a decision, and how sure that is."""
