"""What a device serves beyond a plain text: the words in `capabilities` of its card.

A client asks for a feature where the word is there. It ignores words that it does not know.
"""

from __future__ import annotations

ALWAYS = ("tools", "logprobs", "rules")  # every agent of this version serves these
REASONING = "reasoning"  # the model's thinking has marks, by which it is told from the answer
GRAMMARS = ("json_schema", "regex", "grammar")  # where the device can load llguidance
IMAGES = "images"  # no word of a card, whose `images` say what it takes of pictures
