"""What a model is for: one file for each task, and what it needs beside it."""
