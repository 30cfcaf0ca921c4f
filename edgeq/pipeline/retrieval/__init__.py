"""The main job for a text encoder and a vision encoder: each exported, quantized and judged by what is found."""
