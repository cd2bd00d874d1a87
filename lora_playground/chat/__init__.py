"""Side-by-side chat: the process that hosts the base model, and its client."""
