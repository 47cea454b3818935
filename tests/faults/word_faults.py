"""Faults of the tokenizer, the chat template and genai_config.json."""

from __future__ import annotations

from typing import Any

from tests.faults.built import Built, fault


@fault("tokenizer-merges")
def merge_gone(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t["model"]["merges"].pop())


@fault("tokenizer-added-tokens")
def added_token_gone(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t["added_tokens"].pop(0))


@fault("tokenizer-added-tokens")
def added_token_flag(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t["added_tokens"][-1].update(lstrip=True))


@fault("tokenizer-words")
def words_exchanged(built: Built) -> None:
    def exchange(tokenizer: dict[str, Any]) -> None:
        words = tokenizer["model"]["vocab"]
        one, other = list(words)[-2:]
        words[one], words[other] = words[other], words[one]

    built.change("tokenizer.json", exchange)


@fault("tokenizer-settings")
def normalizer(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t.update(normalizer={"type": "NFKC"}))


@fault("tokenizer-settings")
def pre_tokenizer(built: Built) -> None:
    built.change("tokenizer.json", lambda t: t.update(pre_tokenizer=None))


@fault("tokenizer-settings")
def end_word(built: Built) -> None:
    built.change("tokenizer_config.json", lambda t: t.update(eos_token="<|endoftext|>"))


@fault("chat-template")
def template_blank(built: Built) -> None:
    path = built.folder / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")


@fault("token-ids")
def second_end(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(eos_token_id=[2, 17]))


@fault("token-ids")
def other_begin(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(bos_token_id=3))


@fault("token-ids")
def other_pad(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(pad_token_id=5))


@fault("context-length")
def context_quadrupled(built: Built) -> None:
    def longer(config: dict[str, Any]) -> None:
        config["model"]["context_length"] *= 4

    built.change("genai_config.json", longer)


@fault("model-settings")
def other_head_size(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"]["decoder"].update(head_size=48))


@fault("model-settings")
def other_type(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["model"].update(type="gemma"))


@fault("search-settings")
def temperature(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(temperature=2.5))


@fault("search-settings")
def penalty(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(repetition_penalty=5.0))


@fault("search-settings")
def min_length(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(min_length=200))


@fault("search-settings")
def unknown_setting(built: Built) -> None:
    built.change("genai_config.json", lambda c: c["search"].update(random_seed=7))
