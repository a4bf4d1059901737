"""Masked language modelling: learning a language, or a field's own, from text alone, and filling masks."""
