"""Engines on the device: planned from a bundle, built once, kept under a key that says what they are good for."""
