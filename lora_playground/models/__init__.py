"""Base models: finding, loading, decoding, and what they cost."""
