"""A two-tower model at work: texts and images to embeddings, without torch and without transformers."""
