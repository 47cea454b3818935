"""What differs between the families of models that take pictures, for a build. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgekit.builder.support.change import Mend, Refusal

Config = Mapping[str, Any]

PICTURES, WHOLE, TOKENS = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
"""Files that say what a processor does."""
TABLE = "model.embed_tokens.weight"
"""The embedding of every text part."""


def image_processor(files: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the image processor, from the one file where transformers looks for them.

    An empty object has settings, too: those of the class. None where there is no object.

    Args:
        files: the objects of a folder's files by name, as far as they are there.
    """
    whole = files.get(WHOLE, {}).get("image_processor")
    return dict(whole) if isinstance(whole, dict) else files.get(PICTURES)


def other_views(why: str, instead: str) -> Refusal:
    """The refusal of a processor whose views of a picture, or words around it, are others.

    Args:
        instead: the next step.
    """
    what = "its processor makes something else of a picture than the device would"
    return Refusal(what, why, instead)


class Looked(msgspec.Struct, frozen=True):
    """What a picture of a grid of crops takes.

    Attributes:
        views: that the model sees, with the small one.
        tokens: places in a prompt.
    """

    views: int
    tokens: int


class PictureFamily(msgspec.Struct, frozen=True):
    """A family of models of which every part is built.

    Attributes:
        name: as genai_config.json calls the type of the built model.
        architectures: of config.json.
        text: architecture of the text part.
        as_text: the change of config.json after which transformers reads the text part.
        text_config: config.json of the text part.
        text_name: name of a tensor -> its name in the text part; empty where it belongs elsewhere.
        longest_context: in tokens; 0 for the model's own.
        refusal: why the settings of the part that sees are not understood, or None.
        words_refusal: the same of the processor's files; takes their objects by name.
        sections: of genai_config.json, about the two graphs beside the text part's; takes the
            objects of the processor's files, too.
        patches: of a view, as the tower reads it.
        looked: what a picture takes, by its height and width in crops.
        tower: beginning of the names of the tower's tensors.
        drops_last: the states after the tower's last layer are not taken.
        renamed: the text part's tensors have other names than transformers wants.
        template_of_processor: its processor renders a chat, and not its tokenizer.
    """

    name: str
    architectures: tuple[str, ...]
    text: str
    as_text: Callable[[Config], Mend]
    text_config: Callable[[Config], dict[str, Any]]
    text_name: Callable[[str], str]
    longest_context: Callable[[Config], int]
    refusal: Callable[[Config], Refusal | None]
    words_refusal: Callable[[Config, Mapping[str, Any]], Refusal | None]
    sections: Callable[[Config, Mapping[str, Any]], dict[str, Any]]
    patches: Callable[[Config], int]
    looked: Callable[[Config, int, int], Looked]
    tower: str
    drops_last: bool = False
    renamed: bool = False
    template_of_processor: bool = False
