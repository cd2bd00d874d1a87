"""Spectra, subspaces, intruder dimensions: pure functions on arrays."""
