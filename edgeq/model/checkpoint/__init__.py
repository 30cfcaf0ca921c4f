"""Checkpoints: where they come from, what is stored in them, safetensors headers and files."""
