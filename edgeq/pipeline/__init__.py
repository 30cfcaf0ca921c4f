"""The main jobs, told as stories: a stage is a line."""
