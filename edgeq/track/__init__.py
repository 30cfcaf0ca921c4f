"""Figures to experiment trackers: MLflow and TensorBoard.

`record.py` makes a record of a bundle or of a table of layers; a tracker is one file here and one line in
`registry.py`, and takes records alone.
"""
