"""The laboratory: experiments on trained runs. Mixtures of adapters (`mixing`, `weights`), single singular directions
(`reading`), the strength of an update or of its intruder dimensions (`dials`), the position of a slice in W's spectrum
(`slices`), the first gradient beside the learned update (`forecast`). The maths is in `analysis`."""
