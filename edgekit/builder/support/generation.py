"""Search defaults and token ids of a source: mended for the locked builder, or refused. Pure.

transformers takes both from generation_config.json, and from config.json only where that file is
missing. The builder takes four of the search defaults from generation_config.json, and no penalty;
those of config.json it does not see, because transformers 5 moves them elsewhere when it reads the
file. It takes token ids from both. Each rule here was run with `generate` of transformers 5.23.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.builder.support.change import Refusal
from edgekit.builder.support.mend import ATTRIBUTES
from edgekit.builder.support.modelconfig import language_part
from edgekit.builder.support.pictures import text_config

GENERATION_NAME = "generation_config.json"
DEFAULTS: dict[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0,
}  # fmt: skip
"""transformers' own, for keys that a file leaves out or null."""
_NOT_CARRIED: dict[str, Any] = {
    "num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": 0, "length_penalty": 1.0,
    "diversity_penalty": 0.0, "min_p": 0.0, "typical_p": 1.0, "min_length": 0,
    "min_new_tokens": 0, "bad_words_ids": [], "suppress_tokens": [], "forced_bos_token_id": None,
    "forced_eos_token_id": None, "penalty_alpha": 0.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "begin_suppress_tokens": [], "constraints": [], "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None, "force_words_ids": [], "guidance_scale": 1.0,
    "num_beam_groups": 1, "sequence_bias": [], "stop_strings": [], "token_healing": False,
    "top_h": None, "watermarking_config": None,
}  # fmt: skip
"""Settings that a request names or the agent lacks, with the values that change nothing."""
_PENALTY = "repetition_penalty"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_AGAIN = f"correct {GENERATION_NAME} (or config.json), or take that of the original model"


class SourceMend(msgspec.Struct, frozen=True):
    """A change to both files that the builder reads search defaults and token ids from.

    Attributes:
        config: JSON Merge Patch for config.json.
        generation: the same for generation_config.json, which the source may not have.
        why: reason for the user, in one line; empty where the builder is told what the source says.
    """

    config: dict[str, Any]
    generation: dict[str, Any]
    why: str = ""


def of_text(config: dict[str, Any]) -> dict[str, Any]:
    """config.json as its text part has it, with the search defaults that transformers finds in it.

    Without a generation_config.json, transformers takes those of the whole, then the text part's.
    """
    inner = config.get("text_config") or {}
    said = {**inner, **{key: value for key, value in config.items() if value is not None}}
    found = {key: said[key] for key in (*DEFAULTS, *_NOT_CARRIED) if said.get(key) is not None}
    return {**text_config(config), **found}


def search_defaults(config: dict[str, Any], generation: dict[str, Any] | None) -> dict[str, Any]:
    """The search defaults that a built model has: those with which transformers generates.

    Args:
        config: config.json.
        generation: generation_config.json; None where the source has none. Neither is refused by
            `unusable`.

    Returns:
        The keys of `DEFAULTS`. A top_k of 0 keeps every token.
    """
    given = config if generation is None else generation
    found = {key: _or(given.get(key), default) for key, default in DEFAULTS.items()}
    if found["temperature"] == 0:
        found |= {"do_sample": False, "temperature": DEFAULTS["temperature"]}
    found["top_k"] = max(0, found["top_k"])
    found["top_p"] = min(1.0, found["top_p"])
    return found


def generation_mends(
    config: dict[str, Any], generation: dict[str, Any] | None
) -> tuple[SourceMend, ...]:
    """What the builder is told instead of the source's own search defaults and token ids."""
    return (*_search(config, generation), *_token_ids(config, generation))


def unusable(config: dict[str, Any], generation: dict[str, Any] | None) -> Refusal | None:
    """Why these search defaults or token ids make no model, or None."""
    given = config if generation is None else generation
    for key in DEFAULTS:
        if wrong := _wrong(key, given.get(key)):
            return Refusal(
                f"the source's default {key} is not one to generate with",
                f"it is {given[key]!r}; {wrong}",
                _AGAIN,
            )
    return _wrong_ids(config, generation)


def beyond_rows(config: dict[str, Any], tokenizer: dict[str, Any], template: str) -> Refusal | None:
    """Why a tokenizer makes ids that the model has no row for, or None.

    Args:
        tokenizer: tokenizer.json.
        template: the chat template. A special token that it does not name is never made.
    """
    rows = language_part(config).get("vocab_size")
    words = (tokenizer.get("model") or {}).get("vocab") or {}
    if not isinstance(rows, int):
        return None
    if isinstance(words, dict):
        base = [i for i in words.values() if isinstance(i, int)]
    else:
        base = list(range(len(words)))
    used = [
        token["id"]
        for token in tokenizer.get("added_tokens") or []
        if isinstance(token.get("id"), int)
        and (not token.get("special") or str(token.get("content")) in template)
    ]
    highest = max([*base, *used], default=-1)
    if highest < rows:
        return None
    return Refusal(
        "the tokenizer makes ids that the model has no row for",
        f"ids go up to {highest}, and vocab_size of config.json is {rows}",
        "take tokenizer and weights of one model; a model whose tokens were added later has to be "
        "saved after resize_token_embeddings",
    )


def _search(config: dict[str, Any], generation: dict[str, Any] | None) -> tuple[SourceMend, ...]:
    given = config if generation is None else generation
    mends = []
    for key, value in search_defaults(config, generation).items():
        why = _why(key, given.get(key), value)
        if key == _PENALTY:
            if value != DEFAULTS[key]:
                # transformers reads either file, and with the other defaults one is made
                own = {key: value} if generation is None else {}
                mends.append(SourceMend({ATTRIBUTES: {key: value}}, own, why))
        elif _or((generation or {}).get(key), DEFAULTS[key]) != value:
            mends.append(SourceMend({}, {key: value}, why))
    left = sorted(key for key, none in _NOT_CARRIED.items() if _or(given.get(key), none) != none)
    if left:
        verb = "are" if len(left) > 1 else "is"
        mends.append(SourceMend({}, {}, f"{', '.join(left)} {verb} left to the requests"))
    return tuple(mends)


def _why(key: str, said: Any, value: Any) -> str:
    if said is None or said == value:
        return ""
    if key in ("do_sample", "temperature"):
        return "the default temperature of 0 is built as greedy" if key == "do_sample" else ""
    return f"the default {key} of {said!r} is built as {value!r}, which means the same"


def _token_ids(config: dict[str, Any], generation: dict[str, Any] | None) -> tuple[SourceMend, ...]:
    rows = language_part(config).get("vocab_size")
    if not isinstance(rows, int):
        return ()
    mends = []
    for key in _IDS:
        parts = (config, config.get("text_config") or {}, generation or {})
        ids = [_ids(part.get(key)) for part in parts]
        outside = [i for each in ids for i in each if not 0 <= i < rows]
        if not outside:
            continue
        top, inner, own = (
            {key: [i for i in each if 0 <= i < rows] or None}
            if any(not 0 <= i < rows for i in each)
            else {}
            for each in ids
        )
        named = ", ".join(str(i) for i in dict.fromkeys(outside))
        why = f"{key} {named} is left out: the model has {rows} rows"
        mends.append(SourceMend(top | ({"text_config": inner} if inner else {}), own, why))
    return tuple(mends)


def _wrong(key: str, value: object) -> str:
    """Why transformers does not generate with this value, which no mend explains; or empty."""
    if value is None:
        return ""
    if key == "do_sample":
        return "" if isinstance(value, bool) else "it is true or false"
    if key == "top_k":
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= -1
        return "" if whole else "it is a whole number, and 0 or -1 for all tokens"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "it is a number"
    if key == "repetition_penalty":
        return "" if 0 < value < float("inf") else "it is above 0"
    return "" if 0 <= value < float("inf") else "it is not below 0"


def _wrong_ids(config: dict[str, Any], generation: dict[str, Any] | None) -> Refusal | None:
    text = language_part(config)
    rows = text.get("vocab_size")
    for name, file in (("config.json", text), (GENERATION_NAME, generation or {})):
        for key in _IDS:
            if not _is_ids(file.get(key)):
                return Refusal(
                    f"{key} of {name} is not a token id",
                    f"it is {file[key]!r}",
                    _AGAIN,
                )
    if not isinstance(rows, int):
        return None
    if any(i >= rows for i in _ids(text.get("pad_token_id"))):
        return Refusal(
            "transformers itself does not load this model",
            f"its pad_token_id is {text['pad_token_id']}, and its embedding has {rows} rows",
            "set pad_token_id of config.json to one of them, or to null",
        )
    ends = _ids((generation or {}).get("eos_token_id")) or _ids(text.get("eos_token_id"))
    if ends and not any(0 <= i < rows for i in ends):
        return Refusal(
            "nothing would end an answer of this model",
            f"its eos_token_id is {', '.join(map(str, ends))}, and its embedding has {rows} rows",
            _AGAIN,
        )
    return None


def _is_ids(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(v, int) and not isinstance(v, bool) for v in values)


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int)]


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
