"""Families of vision-language models: one file for each. `base.py` is the contract, `registry.py` the list."""
