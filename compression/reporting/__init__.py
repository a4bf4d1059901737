"""The report of a compression as JSON, Markdown and SVG."""
