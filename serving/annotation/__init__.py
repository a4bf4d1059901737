"""Offline annotation of corpora: every record of a corpus answered once, without a server."""
