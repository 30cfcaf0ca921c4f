"""Images to histograms to thresholds to scales."""
