"""Families of vision-language models: one file for each, and what they share."""
