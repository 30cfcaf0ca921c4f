"""A small CLIP that finds inspection scenes by a description of them, and its training."""
