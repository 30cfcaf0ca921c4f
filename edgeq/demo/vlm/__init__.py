"""A small vision-language model of the LLaVA architecture that reports on the inspection scenes, and its training."""
