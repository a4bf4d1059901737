"""What the encoder makes windows with: pairs of texts and the special tokens around them, and what tokenizers are told and asked."""
