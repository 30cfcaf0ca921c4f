"""Search: which layers, ranges and methods, judged on images."""
