"""Decisions of served agents with the feedback on them: their log in a database, how answers are sampled, off-policy evaluation."""
