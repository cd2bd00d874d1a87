"""Datasets: reading, validating, encoding and packing chats."""
