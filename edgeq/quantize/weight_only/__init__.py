"""A language model's weights as integers (INT4 by AWQ, INT8), activations in 16 bits: W4A16 and W8A16."""
