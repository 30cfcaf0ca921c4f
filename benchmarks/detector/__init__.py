"""A small detector of defects: drawn scenes, a network, its training, and what INT8 makes of its boxes."""
