"""Linear layers whose weights are integers of 4 and 8 bits, loaded as compressed-tensors stores them."""
