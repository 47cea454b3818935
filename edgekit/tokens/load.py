"""Opens what a model's folder says about chats, with Hugging Face's libraries."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from edgekit.errors import EdgekitError
from edgekit.tokens.bounds import bounded
from edgekit.tokens.folder import ChatFolder
from edgekit.tokens.template import ChatTemplate, Clock


def compiled(source: str, folder: ChatFolder, clock: Clock) -> ChatTemplate:
    """Compile one of the folder's chat templates.

    Raises:
        EdgekitError: it has a syntax error, or exceeds its bounds.
    """
    try:
        with bounded():  # constant expressions are computed here
            return ChatTemplate(source, folder.named, clock)
    except (TimeoutError, MemoryError) as error:
        raise EdgekitError(
            "the chat template cannot be compiled",
            str(error) or "it needs too much memory",
            "mend chat_template.jinja in the source, then build the model again",
        ) from error


def load(path: Path) -> Tokenizer:
    """Load `tokenizer.json`.

    Raises:
        EdgekitError: it cannot be read.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare type
        raise EdgekitError(
            f"{path} cannot be read", str(error), "build the model again: the file is damaged"
        ) from error
    # Training leaves these in the file; transformers switches both off, too.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def as_special(token: AddedToken) -> AddedToken:
    """Return the token as a special one."""
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )
