"""Compares a built folder's tokenizer, chat template and genai_config.json with the source's.

The truth is what transformers itself writes for the source (`save_pretrained`), whole: vocabulary,
merges, added tokens, normalizer and the rest. A generation setting may be the source's, or the
default where the builder does not carry it over.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lint.difference import difference
from lint.original import Original
from vision.smolvlm import SETTINGS

_TOKENIZER = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
# of the run that wrote the file, or compared with the context instead
_NOT_COMPARED = frozenset({"local_files_only", "is_local", "model_max_length", "name_or_path"})
# what the runtime, or a tokenizer, reads if it is there
_READ = (
    "chat_template.jinja", "chat_template.json", "added_tokens.json", "special_tokens_map.json",
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
_NAMES = {
    "inputs": {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "position_ids": "position_ids",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
        "past_conv_names": "past.%d.conv",
        "past_recurrent_names": "past.%d.recurrent",
    },
    "outputs": {
        "logits": "logits",
        "present_key_names": "present.%d.key",
        "present_value_names": "present.%d.value",
        "present_conv_names": "present.%d.conv",
        "present_recurrent_names": "present.%d.recurrent",
    },
}
# setting -> its default in the runtime and in the builder
_SEARCH: dict[str, Any] = {
    "diversity_penalty": 0.0, "do_sample": False, "length_penalty": 1.0, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beams": 1, "num_return_sequences": 1,
    "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0,
}  # fmt: skip
_OTHER_TYPE = ("ChatGLM", "Phi3V", "Phi4MM", "VideoChatFlash")
"""Architectures whose text models run as another type."""
_OF_LIST = {"merges": "tokenizer-merges", "added_tokens": "tokenizer-added-tokens"}
_FREE = frozenset({"max_length", "past_present_share_buffer", "early_stopping", "chunk_size"})
"""Settings of `search` that do not come from the source; the lint checks `max_length`."""


def load_tokenizer(source: Path, trust: bool) -> Any:
    """The source's tokenizer as transformers reads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=trust)


def tokens(model: Path, tokenizer: Any) -> Iterator[dict[str, str]]:
    """Every file of the tokenizer that differs from what transformers writes."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        written = {
            path.relative_to(folder).as_posix(): path
            for path in Path(folder).rglob("*")
            if path.is_file()
        }
        for name, path in sorted(written.items()):
            if not (model / name).is_file():
                yield difference("tokenizer-settings", name, "a file", "none")
            elif name == _TOKENIZER:
                yield from _vocabulary(_json(path), _json(model / name))
            elif path.suffix == ".json":
                yield from _unlike("tokenizer-settings", name, _json(path), _json(model / name))
            elif path.read_bytes() != (model / name).read_bytes():
                kind = "chat-template" if path.suffix == ".jinja" else "tokenizer-settings"
                yield difference(kind, name, "the source's text", "another text")
        for name in _READ:
            if name not in written and (model / name).is_file():
                kind = "chat-template" if "template" in name else "tokenizer-settings"
                yield difference(kind, name, "no such file", "a file")


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def _unlike(
    kind: str, where: str, wanted: dict[str, Any], found: dict[str, Any]
) -> Iterator[dict[str, str]]:
    for key in sorted((wanted.keys() | found.keys()) - _NOT_COMPARED):
        if wanted.get(key) != found.get(key):
            yield difference(
                kind, f"{where} {key}", wanted.get(key, "none"), found.get(key, "none")
            )


def _vocabulary(wanted: dict[str, Any], found: dict[str, Any]) -> Iterator[dict[str, str]]:
    one, other = wanted.pop("model", {}), found.pop("model", None) or {}
    yield from _words(one.pop("vocab", {}), other.pop("vocab", {}))
    yield from _lists("merges", one.pop("merges", []), other.pop("merges", []))
    yield from _unlike("tokenizer-settings", f"{_TOKENIZER} model", one, other)
    yield from _lists("added_tokens", wanted.pop("added_tokens", []), found.pop("added_tokens", []))
    yield from _unlike("tokenizer-settings", _TOKENIZER, wanted, found)


def _words(wanted: Any, found: Any) -> Iterator[dict[str, str]]:
    if not (isinstance(wanted, dict) and isinstance(found, dict)):
        yield from _lists("vocabulary", wanted, found)
        return
    off = [w for w in wanted.keys() | found.keys() if wanted.get(w) != found.get(w)]
    if off:
        first = min(off, key=lambda word: (wanted.get(word, -1), word))
        where = f"{_TOKENIZER} vocabulary, {len(off)} words, {first!r}"
        yield difference(
            "tokenizer-words", where, wanted.get(first, "none"), found.get(first, "none")
        )


def _lists(what: str, wanted: Any, found: Any) -> Iterator[dict[str, str]]:
    if wanted == found:
        return
    kind = _OF_LIST.get(what, "tokenizer-words")
    one, other = list(wanted or []), list(found or [])
    pairs = zip(one, other, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    yield difference(
        kind, f"{_TOKENIZER} {what}, number {at}, {len(one)} expected and {len(other)} found",
        one[at] if at < len(one) else "none", other[at] if at < len(other) else "none",
    )  # fmt: skip


def configuration(
    model: Path, source: Path, original: Original, tokenizer: Any
) -> Iterator[dict[str, str]]:
    """Every setting of genai_config.json that does not follow from the source."""
    config = _json(model / "genai_config.json")
    told = config.get("model") or {}
    decoder = told.get("decoder") or {}
    generation = _generation(source)
    yield from _ids(told, original, generation, tokenizer)
    yield from _context(told, model, original)
    kind, wanted_kind = str(told.get("type")), _type(original)
    if wanted_kind and _plain(kind).removesuffix("text") != wanted_kind:
        yield difference("model-settings", "genai_config.json type", wanted_kind, kind)
    for name, value in _sizes(original).items():
        got = decoder.get(name)
        if value is not None and got != value:
            yield difference("model-settings", f"genai_config.json {name}", value, got)
    for name, value in _views(original).items():
        got = (told.get("vision") or {}).get(name)
        if got != value:
            yield difference("model-settings", f"genai_config.json vision.{name}", value, got)
    for group, names in _NAMES.items():
        for name, value in names.items():
            got = (decoder.get(group) or {}).get(name, value)
            if got != value:
                yield difference("cache-wiring", f"genai_config.json {name}", value, got)
    yield from _window(decoder, original)
    yield from _search(config.get("search") or {}, generation, original)


def _type(original: Original) -> str | None:
    """The runtime's type of the model, without underscores; None where it is another's."""
    if told := getattr(original.whole, SETTINGS, None):  # a model that takes pictures
        return _plain(told["type"])
    name = (getattr(original.whole, "architectures", None) or [""])[0]
    if "For" not in name or name.startswith(_OTHER_TYPE):
        return None
    return _plain(name[: name.index("For")])


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _generation(source: Path) -> dict[str, Any]:
    """What the source says of generating; without such a file, config.json says it.

    transformers 5 takes it away from there when it reads config.json.
    """
    path = source / "generation_config.json"
    if path.is_file():
        return _json(path)
    whole = _json(source / "config.json")
    own = {name: value for name, value in whole.items() if value is not None}
    said = {**(whole.get("text_config") or {}), **own}
    return {name: said[name] for name in _SEARCH if said.get(name) is not None}


def _sizes(original: Original) -> dict[str, Any]:
    config = original.config
    heads = getattr(config, "num_attention_heads", None)
    hidden = getattr(config, "hidden_size", None)
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
        "hidden_size": hidden,
        "head_size": getattr(config, "head_dim", None)
        or (hidden // heads if hidden and heads else None),
    }


def _views(original: Original) -> dict[str, Any]:
    """What a device has to know of a view; of a family whose views are all of one size, nothing."""
    told = getattr(original.whole, SETTINGS, None)
    if not told:
        return {}
    side = told["image_size"]
    cells = side // told["patch_size"] // told["scale_factor"]
    return {"image_size": side, "image_seq_len": cells**2}


def _ids(
    told: dict[str, Any], original: Original, generation: dict[str, Any], tokenizer: Any
) -> Iterator[dict[str, str]]:
    def of(name: str) -> Any:
        for place in (original.whole, original.config, tokenizer):
            value = getattr(place, name, None) if place is not None else None
            if value is not None:
                return value
        return None

    def first(name: str) -> Any:
        value = generation.get(name)
        return of(name) if value is None else value

    ends = _listed(first("eos_token_id"))
    wanted = {
        "bos_token_id": _listed(first("bos_token_id")) or [1],  # the builder's default
        "eos_token_id": ends,
        "pad_token_id": _listed(first("pad_token_id")) or ends[:1],
    }
    turn = getattr(tokenizer, "eos_token_id", None)
    if turn is not None and ends and turn not in ends:
        wanted["eos_token_id"] = [turn, *ends]
    rows = getattr(original.config, "vocab_size", None)
    for name, given in wanted.items():
        got = _listed(told.get(name))
        ids = [i for i in given if not rows or i < rows]  # no token has the others
        if ids and set(got) != set(ids):
            yield difference("token-ids", f"genai_config.json {name}", str(ids), str(got))


def _listed(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [v for v in values if isinstance(v, int)]


def _context(told: dict[str, Any], model: Path, original: Original) -> Iterator[dict[str, str]]:
    wanted = original.setting("seq_length") or original.context
    if wanted is None:
        return
    got = told.get("context_length")
    if got != wanted:
        yield difference("context-length", "genai_config.json context_length", wanted, got)
    path = model / _SETTINGS
    length = _json(path).get("model_max_length") if path.is_file() else None
    if length is not None and length != wanted:
        yield difference("context-length", f"{_SETTINGS} model_max_length", wanted, length)


def _window(decoder: dict[str, Any], original: Original) -> Iterator[dict[str, str]]:
    given = decoder.get("sliding_window") or {}
    windows = {layer: one.window for layer, one in original.attention().items()}
    for layer in given.get("layers") or ():
        wanted, got = windows.get(layer, -1), given.get("window_size")
        never = got and original.context and got >= original.context  # then it never slides
        if wanted != (-1 if never else got):
            where = f"genai_config.json sliding_window of layer {layer}"
            yield difference("attention-settings", where, wanted, got)


def _search(
    search: dict[str, Any], generation: dict[str, Any], original: Original
) -> Iterator[dict[str, str]]:
    for name, got in sorted(search.items()):
        if name in _FREE:
            continue
        if name not in _SEARCH:
            yield difference(
                "search-settings", f"genai_config.json search.{name}", "no such setting", got
            )
            continue
        own = generation.get(name)
        if own is None:
            own = getattr(original.whole, name, None)
        allowed = [_SEARCH[name] if own is None else own]
        # the builder carries four settings over; others, and invalid ones, stay at the default
        if name not in ("do_sample", "temperature", "top_k", "top_p") or not _valid(name, own):
            allowed.append(_SEARCH[name])
        if got not in allowed:
            yield difference("search-settings", f"genai_config.json search.{name}", allowed[0], got)


def _valid(name: str, value: Any) -> bool:
    if name == "do_sample" or value is None:
        return True
    return bool(isinstance(value, int | float) and value > 0 and (name != "top_p" or value <= 1))
