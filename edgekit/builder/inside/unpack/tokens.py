"""Makes tokenizer.json say what the header of a GGUF file says.

transformers 5.23 writes control tokens outside of the byte alphabet (DeepSeek's) as bytes, gives
unknown kinds of tokenizers GPT-2's rules, and leaves out `ignore_merges`, NFC and
`add_space_prefix`. The vocabulary, the merges and the types of the result are compared with the
header as a whole.
"""

import json
from pathlib import Path
from typing import Any

from common.reporting import ScriptError

REFUSED = "refused"
"""The kind of an error that is the file's fault."""

_CONTROL, _USER_DEFINED = 3, 4
_KINDS = ("bos", "eos", "unknown", "padding")
_SHORT = {"unknown": "unk", "padding": "pad"}
# Phi-3's tokens that keep the white space behind them (llama.cpp, and Microsoft's tokenizer.json)
_KEEP_SPACE = frozenset({"<unk>", "<s>", "<|endoftext|>"})
# The ends of a turn that llama.cpp finds by their text, where the header names none.
_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<EOT>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<end_of_utterance>",
)  # fmt: skip
# The ends of a text, at which llama.cpp ends every answer, and which no header names.
_TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>")
_CALL_END = "<|eom_id|>"  # Llama 3.1 ends a call of a tool with it; llama.cpp finds it, too


class Words:
    """The vocabulary of a header.

    Args:
        metadata: the header's values, with tokens and merges as lists.
    """

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.words: list[str] = metadata["tokenizer.ggml.tokens"]
        self.types: list[int] = metadata.get("tokenizer.ggml.token_type") or [1] * len(self.words)
        self.merges: list[str] | None = metadata.get("tokenizer.ggml.merges")
        self.ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _KINDS}
        self.eot = metadata.get("tokenizer.ggml.eot_token_id")
        self.eom = metadata.get("tokenizer.ggml.eom_token_id")

    def added(self) -> list[int]:
        """The ids of the tokens that are matched as a whole."""
        return [i for i, kind in enumerate(self.types) if kind in (_CONTROL, _USER_DEFINED)]

    def control(self, number: int) -> bool:
        """Whether a token is no text."""
        return self.types[number] == _CONTROL


def read_words(path: Path) -> Words:
    """The vocabulary of a file."""
    from transformers.integrations.gguf.reader import read_gguf_metadata

    names = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    return Words(read_gguf_metadata(str(path), names)[0])


def mended(spec: dict[str, Any], words: Words, told: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json as the header describes it.

    Args:
        spec: tokenizer.json that transformers made of the header.
        told: `GgufTokenizer` of `support/gguf/tokens.py`.
    """
    spec = json.loads(json.dumps(spec))
    model = spec["model"]
    if told["byte_level"]:
        # transformers spells these as bytes if a character is not in the byte alphabet
        spelled = {number: word for word, number in model["vocab"].items()}
        spelled |= {number: words.words[number] for number in words.added()}
        model["vocab"] = {spelled[number]: number for number in sorted(spelled)}
        model["ignore_merges"] = told["ignore_merges"]
    if told["runs_first"]:
        model["merges"] = _runs_first(model, words)
    spelled = {number: word for word, number in model["vocab"].items()}
    spec["added_tokens"] = [
        {
            "id": number,
            "content": spelled.get(number, words.words[number]),
            "single_word": False,
            "lstrip": False,
            "rstrip": told["strips"]
            and words.control(number)
            and words.words[number] not in _KEEP_SPACE,
            "normalized": False,
            "special": words.control(number),
        }
        for number in words.added()
    ]
    for part in ("pre_tokenizer", "normalizer"):
        spec[part] = told[part] or spec[part]
    if told["space_prefix"] is not None:
        _space_prefix(spec, prefix=told["space_prefix"])
    return spec


def _runs_first(model: dict[str, Any], words: Words) -> list[list[str]]:
    """Gemma's merges in the order of its tokenizer.json.

    transformers orders them by the result's number alone. User-defined results come first, the
    longest left parts before others (`SentencePieceExtractor` with a score of 0).
    """

    def place(pair: list[str]) -> tuple[bool, int, int, int]:
        number = model["vocab"]["".join(pair)]
        other = words.types[number] != _USER_DEFINED
        return other, number if other else 0, -len(pair[0]), -len(pair[1])

    return sorted(model["merges"], key=place)


def _space_prefix(spec: dict[str, Any], *, prefix: bool) -> None:
    """Take away the blank before a text, or check that there is one."""
    split, decoder = spec.get("pre_tokenizer") or {}, spec.get("decoder") or {}
    steps = (spec.get("normalizer") or {}).get("normalizers", [])
    prepends = [step for step in steps if step["type"] == "Prepend"]
    has = bool(prepends) or split.get("prepend_scheme", "never") != "never"
    if prefix and not has:
        raise ScriptError(REFUSED, "the tokenizer of this architecture adds no blank")
    if prefix or not has:
        return
    if prepends:
        spec["normalizer"]["normalizers"] = [step for step in steps if step not in prepends]
    if "prepend_scheme" in split:
        split["prepend_scheme"] = "never"
    if "decoders" in decoder:
        decoder["decoders"] = [each for each in decoder["decoders"] if each["type"] != "Strip"]
    if decoder.get("type") == "Metaspace":
        decoder["prepend_scheme"] = "never"


def compare(spec: dict[str, Any], words: Words, *, byte_level: bool) -> None:
    """Refuse a tokenizer.json that has another vocabulary than the header.

    Raises:
        ScriptError: names the first difference.
    """
    if len(set(words.words)) != len(words.words):
        twice = next(word for word in words.words if words.words.count(word) > 1)
        raise ScriptError(REFUSED, f"the header has the token {twice!r} twice")
    spelled = {number: word for word, number in spec["model"]["vocab"].items()}
    if spelled.keys() != set(range(len(words.words))):
        raise ScriptError(
            REFUSED, f"{len(words.words)} tokens became {len(spelled)} of the tokenizer"
        )
    added = set(words.added())
    for number, word in enumerate(words.words):
        same = spelled[number] == word
        if not same and number in added and byte_level:
            raise ScriptError(REFUSED, f"the token {word!r} became {spelled[number]!r}")
        if not same and spelled[number] not in (_as_bytes(word), word.replace(" ", "▁")):
            raise ScriptError(REFUSED, f"the token {word!r} became {spelled[number]!r}")
    made = [" ".join(pair) for pair in spec["model"]["merges"]]
    if words.merges is not None and made != words.merges:
        raise ScriptError(REFUSED, "the merges are not those of the header")


def _as_bytes(word: str) -> str:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    alphabet = bytes_to_unicode()
    return "".join(alphabet[byte] for byte in word.encode())


def ends(words: Words, templates: dict[str, str], given: list[int]) -> list[int]:
    """The ids that end an answer; without an `eot` or `eom` in the header also the template's."""
    known = (*(_ENDS if words.eot is None else ()), *((_CALL_END,) if words.eom is None else ()))
    text = "".join(templates.values())
    found = [
        number
        for number, word in enumerate(words.words)
        if word in known and word in text and words.control(number) and number != words.ids["bos"]
    ]
    return list(dict.fromkeys(given + found))


def text_ends(words: Words, found: list[int]) -> list[int]:
    """The ids that end a text, and so an answer, beside those found.

    `generation_config.json` of Qwens and Llamas has them. That of SmolLM2 has not: there it is the
    unknown token.
    """
    return [
        number
        for number, word in enumerate(words.words)
        if word in _TEXT_ENDS
        and words.control(number)
        and number not in (words.ids["unknown"], *found)
    ]


def make_tokenizer(gguf: Path, words: Words, told: dict[str, Any]) -> Any:
    """The tokenizer of a GGUF file."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    # not AutoTokenizer, which first makes a configuration of the header
    architecture, given, _ = get_gguf_tokenizer(str(gguf))
    first, _ = convert_gguf_tokenizer(architecture, given)
    spec = mended(json.loads(first.to_str()), words, told)
    compare(spec, words, byte_level=told["byte_level"])
    named = {
        f"{_SHORT.get(name, name)}_token": words.words[number]
        for name, number in words.ids.items()
        if number is not None
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        add_bos_token=told["add_bos"],
        add_eos_token=told["add_eos"],
        **named,
    )
    templates = told["templates"]
    made.chat_template = templates if len(templates) > 1 else next(iter(templates.values()), None)
    return made


def save(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer.

    Raises:
        ScriptError: transformers reads another tokenizer. For some model types AutoTokenizer takes
            a class with rules of its own, whatever the folder says.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    read = AutoTokenizer.from_pretrained(str(folder))
    if read.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
        raise ScriptError(REFUSED, "transformers has other rules for this model's tokenizer")
