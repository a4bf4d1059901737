"""The rival recipe and the summary of the compression benchmark."""
