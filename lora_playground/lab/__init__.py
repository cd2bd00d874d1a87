"""The laboratory: mixtures of runs, directions of an update, dials. It orchestrates; the maths is in `analysis`."""
