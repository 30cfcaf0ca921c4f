"""Answer on the device: the vision graph in an engine, the language model alone, and what joins them."""
