"""Channel equalization: SmoothQuant, RepQ, and which one is worth it."""
