"""Canaries: what the workshop saw, asked again on the device."""
