"""Off-policy evaluation of bundles on logged decisions of classifiers."""
