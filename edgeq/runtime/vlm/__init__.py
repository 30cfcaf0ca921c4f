"""A vision-language model at work: vision encoder, prompts, prefill, decoding."""
