"""A GGUF file as the configuration and the tokenizer that its header names."""
