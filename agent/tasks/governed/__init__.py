"""Tasks whose answers follow the thresholds of a policy (policy.json of a bundle)."""
