"""Chat templates and tokens as Hugging Face's own libraries make them; the door to both libraries.

A conversation goes through `template` (jinja2) and `chat` (tokenizers) and becomes a prompt's
token ids. The worker serves with it, `pack` measures it, and the gate holds it against transformers
in the toolchain: so this package needs no library but these two. See docs/adr/0016.
"""
