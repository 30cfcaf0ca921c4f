"""Samples (images or captions) to histograms to thresholds to scales."""
