"""Scales and a plan into the graphs that run."""
