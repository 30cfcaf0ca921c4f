"""Weights rounded by what a layer answers, and biases that take back what quantization shifts."""
