"""The tokenizer that a GGUF header describes, apart from its vocabulary. Pure.

The header names the tokenizer (`tokenizer.ggml.pre`), and does not describe it: what belongs to
a name is listed in llama.cpp (`llama-vocab.cpp`). transformers 5.23 knows some of the names, and
takes GPT-2's rules for all others.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.builder.support.gguf.header import GgufHeader, LongArray
from edgekit.builder.support.gguf.keys import HeaderKeys


class GgufTokenizer(msgspec.Struct, frozen=True):
    """What `inside/dequantise.py` has to give the tokenizer beside the vocabulary.

    Attributes:
        byte_level: byte-level BPE; else BPE over characters, made by SentencePiece.
        pre_tokenizer: a pre-tokenizer of tokenizer.json; None to keep the one of transformers.
        normalizer: a normalizer of tokenizer.json; None to keep the one of transformers.
        ignore_merges: a piece that is a word of the vocabulary stays whole.
        add_bos, add_eos: texts begin with BOS, and end with EOS.
        space_prefix: a text begins with a blank that it does not have; None to keep the rule of
            transformers.
        strips: control tokens swallow the white space behind them, apart from a few.
        runs_first: merges into user-defined tokens, such as runs of blanks, come before all others.
        templates: chat templates by name.
    """

    byte_level: bool
    pre_tokenizer: dict[str, Any] | None = None
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    add_bos: bool = False
    add_eos: bool = False
    space_prefix: bool | None = None
    strips: bool = False
    runs_first: bool = False
    templates: dict[str, str] = {}


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTES],
}
_KEPT = frozenset({
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "dbrx", "smaug-bpe", "tekken", "qwen2", "deepseek-r1-qwen", "kormo", "megrez", "gpt-4o",
    "kanana2",
})  # fmt: skip
"""The names that transformers knows (`GGUF_PRE_TOKENIZER_SPLITS`)."""
_SPLITS = {
    **dict.fromkeys(_KEPT),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS
    ),
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "exaone4"), _BYTES),
}
_WHOLE = frozenset({
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "tekken",
})  # fmt: skip
"""The names with `ignore_merges`, whose texts begin with BOS where the header is silent."""
_NFC = frozenset({"qwen2", "deepseek-r1-qwen"})
"""transformers gives every model of type qwen2 NFC, DeepSeek's distilled ones as well."""
_STRIPS = "phi3"
_GEMMAS = ("gemma2", "gemma3")
_OF_FAMILY = {"qwen2": "qwen2", "qwen3": "qwen2", "lfm2": "lfm2"}
"""Architectures whose models all have the same tokenizer."""

_READ_INSIDE = ("ggml.tokens", "ggml.scores", "ggml.token_type", "ggml.merges")
_IDS = (
    "bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask", "cls", "fim_pre",
    "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep", "prefix", "suffix", "middle",
)  # fmt: skip
_HARMLESS = ("ggml.token_type_count", "chat_templates")
_NEUTRAL = {"ggml.add_sep_token": False, "ggml.remove_extra_whitespaces": False}
_TEMPLATE = "chat_template"


def tokenizer_of(header: GgufHeader) -> GgufTokenizer:
    """The tokenizer of a header.

    Raises:
        UsageError: the header has a key that cannot be carried over, or contradicts itself.
    """
    keys = HeaderKeys(header, "tokenizer")
    kind, pre = str(keys.take("ggml.model", "")), str(keys.take("ggml.pre", "default"))
    if pre == "default":  # written before tokenizers had names
        pre = _OF_FAMILY.get(str(header.values.get("general.architecture")), pre)
    if kind not in ("gpt2", "llama"):
        raise keys.refusal("ggml.model", f"{kind or 'missing'}; gpt2 and llama are read")
    byte_level = kind == "gpt2"
    if byte_level and pre not in _SPLITS:
        raise keys.refusal("ggml.pre", f"how a tokenizer called {pre} splits texts is not known")
    _check_ids(keys, _check_words(keys, "ggml.merges" if byte_level else "ggml.scores"))
    add_bos = keys.take("ggml.add_bos_token", pre in _WHOLE if byte_level else True)
    if add_bos and header.values.get("tokenizer.ggml.bos_token_id") is None:
        raise keys.refusal("ggml.bos_token_id", "it is missing, and texts begin with it")
    prefix = keys.take("ggml.add_space_prefix")
    templates = {"default": str(text)} if (text := keys.take(_TEMPLATE)) else {}
    for key in [key for key in keys.left() if key.startswith(f"{_TEMPLATE}.")]:
        templates[key.removeprefix(f"{_TEMPLATE}.")] = str(keys.take(key))
    made = GgufTokenizer(
        byte_level=byte_level,
        pre_tokenizer=_SPLITS[pre] if byte_level else None,
        normalizer={"type": "NFC"} if byte_level and pre in _NFC else None,
        ignore_merges=byte_level and pre in _WHOLE,
        add_bos=bool(add_bos),
        add_eos=bool(keys.take("ggml.add_eos_token", False)),
        # llama.cpp never puts a blank before a byte-level text
        space_prefix=None if byte_level or prefix is None else bool(prefix),
        strips=not byte_level and header.values.get("general.architecture") == _STRIPS,
        runs_first=not byte_level and header.values.get("general.architecture") in _GEMMAS,
        templates=templates,
    )
    for key in _HARMLESS:
        keys.take(key)
    for key, harmless in _NEUTRAL.items():
        if (value := keys.take(key, harmless)) != harmless:
            raise keys.refusal(key, f"it is {value}")
    keys.refuse_left()
    return made


def _check_words(keys: HeaderKeys, needed: str) -> int:
    """The number of tokens, which all lists agree on.

    Args:
        needed: the list from which a tokenizer of this kind has its merges.
    """
    lengths = {key: _length(keys.take(key)) for key in _READ_INSIDE}
    words = lengths["ggml.tokens"]
    rows = keys.rows("token_embd.weight")
    # without their types, the control tokens of a chat would be cut into pieces
    for key in ("ggml.tokens", "ggml.token_type", needed):
        if not lengths[key]:
            raise keys.refusal(key, "it is missing")
    if rows and words > rows:
        raise keys.contradiction(
            f"{keys.header.name} contradicts itself",
            f"it has {words} tokens, and token_embd.weight has {rows} rows",
        )
    for key in ("ggml.scores", "ggml.token_type"):
        if lengths[key] not in (0, words):
            raise keys.contradiction(
                f"{keys.header.name} contradicts itself",
                f"it has {words} tokens, and {lengths[key]} entries in tokenizer.{key}",
            )
    return words


def _check_ids(keys: HeaderKeys, words: int) -> None:
    for name in _IDS:
        key = f"ggml.{name}_token_id"
        value = keys.take(key)
        if value is not None and not (isinstance(value, int) and 0 <= value < words):
            raise keys.contradiction(
                f"{keys.header.name} contradicts itself",
                f"tokenizer.{key} is {value}, and it has {words} tokens",
            )


def _length(value: Any) -> int:
    if isinstance(value, LongArray):
        return value.length
    return len(value) if isinstance(value, tuple) else 0
