"""GGUF files for llama.cpp: the language model as edgeq judged it, and encoder and connector for its mtmd."""
