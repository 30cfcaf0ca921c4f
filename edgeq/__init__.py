"""edgeq: vision and vision-language models, quantized for the edge, and proved to see."""

__version__ = "0.1.0"
