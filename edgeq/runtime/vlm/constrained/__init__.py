"""Answers of a form: a JSON schema to a grammar, and from step to step the tokens that it allows."""
