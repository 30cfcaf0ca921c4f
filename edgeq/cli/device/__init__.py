"""Verbs of the device half: they import nothing of the workshop."""
