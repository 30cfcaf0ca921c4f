"""The text of prompts and answers: what is no control token, and what is sure of an answer."""
