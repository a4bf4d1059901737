"""Models that write outside of training: their form for CTranslate2."""
