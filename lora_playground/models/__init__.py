"""Base models: `catalogue` finds them, `loading` loads them, `decoding` answers with them."""
