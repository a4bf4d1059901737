"""Trains the pruned or shrunk network with the original agent as its teacher."""
