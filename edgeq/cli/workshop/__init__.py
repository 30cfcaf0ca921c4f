"""Verbs of the workshop half: from a model to a judged bundle."""
