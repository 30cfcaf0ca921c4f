"""A small CLIP that finds inspection scenes by what is said about them, and its training."""
