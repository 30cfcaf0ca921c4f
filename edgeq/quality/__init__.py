"""The reference against the quantized network, on the user's own images."""
