"""Rounds that learn from feedback: collect, train, compress, judge, and publish what passes every gate."""
