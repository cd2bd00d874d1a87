"""Imports adapters from elsewhere as runs, and exports finished runs as files for other tools."""
