"""edgekit: a language model from Hugging Face to an answer on every edge device of a fleet."""

__version__ = "0.1.0"
