"""From texts to batches: encoding, the cache of encoded windows, the plan of batches."""
