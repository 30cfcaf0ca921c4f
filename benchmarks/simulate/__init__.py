"""Simulated quantizers, for research: what a network would answer if its products took numbers of few bits.

Everything is computed in floating point on rounded numbers. No engine runs any of it, and no figure of this room is
ever an engine's: nothing outside `edgeq.cli` and the benchmarks imports it, and every table of it says "simulated".
"""
