"""Turns conversations into tokens and tokens into text, as Hugging Face's libraries do.

A prompt's text is encoded as a whole, so its ids are those of `apply_chat_template`. Only if a
message's text would become a control token, the prompt is encoded in pieces between the template's
own control tokens, and in these pieces control tokens are text.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Encoding

from edgekit.tokens.control import control_tokens
from edgekit.tokens.conversation import Conversation, Turn, conversation
from edgekit.tokens.folder import ChatFolder, read_chat_folder
from edgekit.tokens.load import as_special, compiled, load
from edgekit.tokens.parts import image_of, place_in, placed, rendered, renderer
from edgekit.tokens.shadow import NONCHARACTERS, Spots, marker, message_characters
from edgekit.tokens.spelled import Spelling
from edgekit.tokens.stream import TokenStream
from edgekit.tokens.table import TokenTable
from edgekit.tokens.template import NOTHING, ChatRefusedError, Clock, Value

END_TOKENS = 24  # a prompt's last words, to know how it ends
ANCHOR_CHARACTERS = 16  # of 66: no message guesses them


def open_tokenizer(folder: Path, clock: Clock = datetime.now) -> ChatTokenizer:
    """Load a model folder's tokenizer and chat template.

    Args:
        folder: holds `tokenizer.json`, and a chat template if the model has one.
        clock: the local time for templates that print a date.

    Raises:
        EdgekitError: a file is missing, or cannot be read.
    """
    return ChatTokenizer(read_chat_folder(folder), clock)


@dataclass(frozen=True, slots=True)
class ControlMatch:
    """A control token in a prompt's text: its id, and the characters that it takes."""

    token: int
    start: int
    end: int


class ChatTokenizer:
    """Chat template, encoding and streaming decoding of one model.

    Args:
        folder: what the model's folder says about chats.
        clock: the local time for templates that print a date.

    Attributes:
        eos_token_ids: tokens that end an answer.
        control: the texts of the control tokens.
        template_texts: the strings of the chat template.
        template_options: the variables of the chat template that a caller may set.

    Raises:
        EdgekitError: the template or the tokenizer cannot be read.
    """

    def __init__(self, folder: ChatFolder, clock: Clock) -> None:
        self.eos_token_ids = folder.eos_token_ids
        self._tokenizer = tokenizer = load(folder.tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        special = {token.content for token in added.values() if token.special}
        special |= set(folder.named.values())
        special |= {added[token].content for token in folder.eos_token_ids if token in added}
        self._added = {number: token.content for number, token in added.items()}
        other = {token.content for token in added.values()} - special
        sources = (folder.template, folder.tool_template)
        templates = [compiled(each, folder, clock) for each in sources if each is not None]
        for each in templates:
            image, each.takes_text = image_of(each.render)
            each.image = None if image is None else place_in(image, self._added.values())
        self._template, self._tool_template = templates[:1], templates[-1:]
        self.control = frozenset(special).union(
            *(
                control_tokens(special, other, each, renderer(each), folder.listed)
                for each in templates
            )
        )
        strings = frozenset[str]().union(*(each.constants for each in templates))
        self.template_texts = strings.union(*(each.written for each in templates))
        self.template_options = tuple(sorted({n for each in templates for n in each.options}))
        kept = strings.union(*(each.read for each in templates)) | (other - self.control)
        named = {tokenizer.token_to_id(text): text for text in self.control}
        self._texts = {token: text for token, text in named.items() if token is not None}
        self._control_ids = frozenset(self._texts)
        self._unknown = folder.named.get("unk_token", "")
        self._unknown_id = tokenizer.token_to_id(self._unknown)
        normalizer = tokenizer.normalizer
        self._spots = Spots(self.control, kept, normalizer.normalize_str if normalizer else str)
        # `encode_special_tokens` makes special tokens text, and only those.
        tokenizer.add_special_tokens(
            [
                as_special(token)
                for token in added.values()
                if token.content in self.control and not token.special
            ]
        )
        self._anchors = {normalized: self._anchor(normalized) for normalized in (False, True)}
        self._normalized = {number for number, token in added.items() if token.normalized}
        # A model whose head has more rows than the tokenizer has words can choose an anchor's id.
        anchors = {n for text in self._anchors.values() if (n := tokenizer.token_to_id(text))}
        self._unshown = frozenset(anchors | {n for n, token in added.items() if token.special})
        self._spelling: Spelling | None = None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, control tokens and all, and none that it does not hold."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def added_ids(self, texts: Iterable[str]) -> dict[str, int]:
        """Return the ids of those of these texts that are tokens of their own."""
        ids = ((text, self._tokenizer.token_to_id(text)) for text in texts)
        return {text: token for text, token in ids if token in self._added}

    def controls(self, tokens: Sequence[int]) -> list[int]:
        """Return the control tokens among these, in their order."""
        return [token for token in tokens if token in self._control_ids]

    def end_of(self, tokens: Sequence[int]) -> str:
        """Return the text of the last tokens, special ones and all."""
        text: str = self._tokenizer.decode(list(tokens[-END_TOKENS:]), skip_special_tokens=False)
        return text

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token stands for, which may be a part of a character."""
        if self._spelling is None:
            self._spelling = Spelling(self._tokenizer, self._added)
        return self._spelling.bytes_of(token)

    def table(self, size: int) -> TokenTable:
        """Return what follows a grammar has to know of the first `size` tokens.

        Raises:
            ValueError: the tokens have no bytes of their own.
        """
        return TokenTable(self._tokenizer, self._added, size)

    def stream(self, shown: Collection[str] = ()) -> TokenStream:
        """Return a new stream, which shows the special tokens with these texts."""
        ids = {self._tokenizer.token_to_id(text) for text in shown}
        return TokenStream(self._tokenizer, self._unshown - ids, self.bytes_of)

    def render(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> str:
        """Return the text of a prompt; developer messages go in as system messages.

        Args:
            turns: (role, content) of each message, or a message with more fields.
            tools: those that the model may call, as OpenAI's API describes them.
            options: further variables of the template (`chat_template_kwargs`).

        Raises:
            ChatRefusedError: the template refuses the messages, or exceeds its bounds.
        """
        return self._render(conversation(turns, tools, options))

    def encode_chat(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[int]:
        """Return the prompt's tokens, ready for the answer.

        The template's control tokens are the only ones among them; a requester's texts are text.

        Args:
            turns: as for `render`.
            tools: as for `render`.
            options: as for `render`.

        Raises:
            ChatRefusedError: the template refuses the messages or exceeds its bounds, or a message
                holds a control token that cannot be told from the template's.
        """
        chat = conversation(turns, tools, options)
        return self._encode_pieces(chat, self._render(chat))[0]

    def encode_around(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[list[int]]:
        """Return the tokens before the first picture, between pictures, and behind the last one.

        Where the template takes parts, it writes a picture's place itself. Elsewhere it is done as
        Phi-3.5-vision's processor does it: the message's text has a place and a new line, and each
        piece between places is a text of its own, with the tokens that the tokenizer adds to one.

        Args:
            turns: as for `render`; a content is a text, or texts and pictures.
            tools: as for `render`.
            options: as for `render`.

        Raises:
            ChatRefusedError: as `encode_chat`, or the template does not keep the places.
        """
        parts = any(each.image is not None for each in self._template)
        chat, pictures = placed(conversation(turns, tools, options), parts=parts)
        text = self._render(chat)
        if text.count(chat.place) != pictures:
            raise ChatRefusedError("the chat template does not keep the places of pictures")
        before, behind = ([], []) if parts else self._added_around()
        return [[*before, *ids, *behind] for ids in self._encode_pieces(chat, text)]

    def _encode_pieces(self, chat: Conversation, text: str) -> list[list[int]]:
        """Encode the conversation's rendered text in the pieces between the places of pictures."""
        pieces = text.split(chat.place) if chat.place else [text]
        encodings = [self._tokenizer.encode(each, add_special_tokens=False) for each in pieces]
        if not any(map(self._spots.any_in, chat.texts)):
            return [list(encoding.ids) for encoding in encodings]
        places, most = self._message_places(chat, text)
        told: list[tuple[list[ControlMatch], list[ControlMatch]]] = []
        begin = 0
        for piece, encoding in zip(pieces, encodings, strict=True):
            own: list[ControlMatch] = []
            forged: list[ControlMatch] = []
            for match in self._matches(encoding, piece):
                start, end = self._core(match, piece)
                at = bisect_left(places, begin + start)
                foreign = at < len(places) and places[at] < begin + end
                (forged if foreign else own).append(match)
            told.append((own, forged))
            begin += len(piece) + 1
        if most is not None and sum(len(own) for own, _ in told) > most:
            raise ChatRefusedError("the chat template makes a control token of a message's text")
        return [
            self._encode_apart(piece, own, forged) if forged else list(encoding.ids)
            for piece, encoding, (own, forged) in zip(pieces, encodings, told, strict=True)
        ]

    def _render(self, chat: Conversation) -> str:
        for template in self._tool_template if chat.tools else self._template:
            return rendered(template, chat)
        raise ChatRefusedError("the model has no chat template")

    def _message_places(self, chat: Conversation, text: str) -> tuple[Sequence[int], int | None]:
        """Return where characters of a requester stand that could be a control token's.

        The second value is the most control tokens that the template can have written itself; None
        if the places say it all.
        """
        texts = chat.texts
        mark = marker(texts)
        if mark is None:
            raise ChatRefusedError("the messages hold every noncharacter of Unicode")
        shadow = self._shadow(chat.changed(lambda each: self._spots.wide(each, mark)))
        places = None if shadow is None else message_characters(text, shadow, mark)
        if places is not None:
            return places, None
        most = None if shadow is None else self._count(shadow)
        for ends in (True, False):
            narrow = chat.changed(partial(self._spots.narrow, mark=mark, ends=ends))
            if narrow.texts == texts and (ends or most is not None):
                return (), most
            shadow = self._shadow(narrow)
            places = None if shadow is None else message_characters(text, shadow, mark)
            if places is not None and (ends or most is not None):
                return places, most
        raise ChatRefusedError(
            f"a message holds {self._named_in(texts)}, a control token of this model or a part "
            "of one, where the chat template looks at the text"
        )

    def _shadow(self, chat: Conversation) -> str | None:
        try:
            return self._render(chat)
        except ChatRefusedError:
            return None

    def _count(self, text: str) -> int:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return sum(1 for _ in self._matches(encoding, text))

    def _named_in(self, contents: Sequence[str]) -> str:
        """Return the control token that a refusal names."""
        by_length = sorted(self.control, key=len, reverse=True)
        return next(
            (repr(token) for token in by_length if any(token in each for each in contents)),
            "a part of " + ", ".join(map(repr, by_length[:3])),
        )

    def _matches(self, encoding: Encoding, text: str) -> Iterator[ControlMatch]:
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._control_ids and not self._is_unknown(token, text[start:end]):
                yield ControlMatch(token, start, end)

    def _core(self, match: ControlMatch, text: str) -> tuple[int, int]:
        """Return the place of the token's own text; a match may take white space around it."""
        content = self._texts[match.token]
        at = text.find(content, match.start, match.end)
        return (match.start, match.end) if at < 0 else (at, at + len(content))

    def _is_unknown(self, token: int, text: str) -> bool:
        """Whether this is the unknown token, in the place of characters that have no token."""
        return token == self._unknown_id and text.strip() != self._unknown

    def _encode_apart(
        self, text: str, own: Sequence[ControlMatch], forged: Sequence[ControlMatch]
    ) -> list[int]:
        """Encode the pieces between the template's control tokens, in which these are text."""
        wanted = Counter(self._known(match.token for match in own))
        inside = [match.start + 1 for match in forged]
        for cuts in ((), inside):  # a vocabulary may hold a control token's text as a word
            ids = self._pieces(text, own, cuts)
            if Counter(self._known(self.controls(ids))) == wanted:
                return ids
        names = sorted({text[match.start : match.end].strip() for match in forged})
        raise ChatRefusedError(
            f"a message holds {', '.join(map(repr, names))}: this model's tokenizer has no other "
            "tokens for it than the control token"
        )

    def _known(self, tokens: Iterable[int]) -> Iterator[int]:
        """Yield the tokens but the unknown one, which any text may become."""
        return (token for token in tokens if token != self._unknown_id)

    def _pieces(self, text: str, own: Sequence[ControlMatch], cuts: Sequence[int]) -> list[int]:
        ids: list[int] = []
        begin = 0
        normalized: bool | None = None  # of the token before the piece
        self._tokenizer.encode_special_tokens = True
        try:
            for match in [*own, None]:
                end = len(text) if match is None else match.start
                borders = [begin, *(cut for cut in cuts if begin < cut < end), end]
                for start, stop in pairwise(borders):
                    ids += self._piece(text[start:stop], normalized)
                    normalized = bool(normalized)
                if match is not None:
                    ids.append(match.token)
                    begin, normalized = match.end, match.token in self._normalized
        finally:
            self._tokenizer.encode_special_tokens = False
        return ids

    def _piece(self, piece: str, normalized: bool | None) -> list[int]:
        """Encode a piece as if it stood behind a token that is normalised or not.

        None encodes it as the beginning of the prompt.
        """
        if not piece:
            return []
        if normalized is None:
            return self.encode(piece)
        return self.encode(self._anchors[normalized] + piece)[1:]

    def _added_around(self) -> tuple[list[int], list[int]]:
        """Return the tokens that the tokenizer adds before and behind a text."""
        encoded = self._tokenizer.encode("a")
        text = self.encode("a")
        at = encoded.special_tokens_mask.index(0)
        return encoded.ids[:at], encoded.ids[at + len(text) :]

    def _anchor(self, normalized: bool) -> str:
        """Add a token to the tokenizer that only pieces begin with; return its text.

        Tokenizers treat a text's beginning otherwise than the text behind an added token, and that
        behind a normalised one otherwise than that behind another.
        """
        text = "".join(secrets.choice(NONCHARACTERS[:32]) for _ in range(ANCHOR_CHARACTERS))
        self._tokenizer.add_tokens([AddedToken(text, normalized=normalized, special=False)])
        first = self.encode(text + "a")[:1]
        if first != [self._tokenizer.token_to_id(text)]:  # the normaliser changes the anchor
            return self._anchor(False) if normalized else text
        return text
