"""One file for each format that people label in: how it is told by its content, read as our records, and written."""
