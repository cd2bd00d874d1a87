"""What a chat template makes of a conversation: knows tokenizers, but no models, rows or files."""
