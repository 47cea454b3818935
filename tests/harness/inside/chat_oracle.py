"""What transformers makes of conversations, run with the toolchain's interpreter.

python chat_oracle.py CASES OUT

CASES is JSON: {"tokenizers": {name: folder}, "templates": {name: text}, "cases": [[tokenizer,
template, conversation, neutral]]}; a case may go on with tools, and neutral tools. OUT gets, for
each case, the conversation's text (null if the template refuses it), its ids, and the ids of the
neutral conversation.
"""

# mypy: disable-error-code="import-not-found"
# (the imports are the toolchain's)

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

NOW = datetime(2026, 11, 29, 13, 37)  # noqa: DTZ001  local time, as templates print it


class Frozen(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW


def main() -> None:
    from transformers import AutoTokenizer

    given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    tokenizers = {
        name: AutoTokenizer.from_pretrained(folder) for name, folder in given["tokenizers"].items()
    }
    with mock.patch("transformers.utils.chat_template_utils.datetime", Frozen):
        found = [
            answer(
                tokenizers[tokenizer], given["templates"][template], conversation, neutral, tools
            )
            for tokenizer, template, conversation, neutral, *tools in given["cases"]
        ]
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


def answer(
    tokenizer: Any, template: str, conversation: Any, neutral: Any, tools: list[Any]
) -> list[Any]:
    try:
        how = {"chat_template": template, "add_generation_prompt": True}
        how |= {"tools": tools[0]} if tools else {}
        text = tokenizer.apply_chat_template(conversation, tokenize=False, **how)
        ids = tokenizer.apply_chat_template(conversation, return_dict=False, **how)
        how |= {"tools": tools[1]} if tools else {}
        plain = tokenizer.apply_chat_template(neutral, return_dict=False, **how)
    except Exception:  # whatever the template raises
        return [None, None, None]
    return [text, list(ids), list(plain)]


if __name__ == "__main__":
    main()
