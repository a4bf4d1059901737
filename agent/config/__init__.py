"""Configurations: loading, command line, search ranges and comparison."""
