"""Active learning: chooses the texts whose labels would teach an agent most."""
