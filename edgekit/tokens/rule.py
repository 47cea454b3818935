"""The template of a rule: an operator's Jinja over the JSON of strangers.

The messages are values of the template and never a part of it, so nothing in them is run. What it
makes is the text of a user's message; the chat's own template and the shadow come after it.
"""

from __future__ import annotations

import json
from typing import Any

from jinja2 import StrictUndefined, Undefined, meta
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgekit.core.protocol.wire import MAX_BODY_BYTES
from edgekit.core.rules.message import VARIABLES, Fill
from edgekit.errors import EdgekitError
from edgekit.tokens.bounds import bounded

MAX_CHARACTERS = MAX_BODY_BYTES  # what a client's prompt could have


class RuleRefusedError(EdgekitError):
    """A rule's template cannot be read, or makes no prompt of these messages."""


class RuleTemplate:
    """A compiled template of a rule.

    Args:
        source: in Jinja's language; it may use `edgekit.core.rules.message.VARIABLES`.

    Raises:
        RuleRefusedError: it has a syntax error, or a name that no rule has.
    """

    def __init__(self, source: str) -> None:
        environment = _environment()
        try:
            with bounded():  # constant expressions are computed here
                unknown = meta.find_undeclared_variables(environment.parse(source))
                self._template = environment.from_string(source)
        except (TemplateError, TimeoutError, MemoryError, RecursionError) as error:
            line = f" in line {lineno}" if (lineno := getattr(error, "lineno", None)) else ""
            raise RuleRefusedError(
                "the prompt is no template of Jinja", f"{type(error).__name__}{line}: {error}"
            ) from error
        if unknown := unknown - VARIABLES - set(environment.globals):
            names = ", ".join(sorted(VARIABLES))
            raise RuleRefusedError(
                f"the prompt names {', '.join(sorted(unknown))}", f"a rule has {names}"
            )

    def render(self, fill: Fill) -> str:
        """Return the text of the prompt.

        Raises:
            RuleRefusedError: the messages lack a field, the text is empty, has a NUL, or has more
                than `MAX_CHARACTERS`, or the template does not end within its bounds.
        """
        parts: list[str] = []
        size = 0
        try:
            with bounded():
                for part in self._template.generate(**fill.variables()):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_CHARACTERS:
                        raise RuleRefusedError(
                            f"the text has more than {MAX_CHARACTERS} characters"
                        )
        except RuleRefusedError:
            raise
        except Exception as error:  # whatever filters and messages raise together
            raise RuleRefusedError(f"the template fails on this message: {error}") from error
        text = "".join(parts)
        if not text.strip():
            raise RuleRefusedError("the template makes no text of this message")
        if "\0" in text:
            raise RuleRefusedError("the text has a NUL")
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """In `message.items` a key of the message comes before Python's methods of its type."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Environment(
        undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["tojson"] = _tojson
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    return environment


def _shown(value: Any) -> Any:
    """A value that goes into the text; a method of Python would be shown as an address."""
    if callable(value) and not isinstance(value, Undefined):
        raise TemplateError("a function is no text: has the message this key?")
    return value


def _tojson(value: Any, indent: int | None = None) -> str:
    """JSON as it is; Jinja's own would write `<` as an escape, for HTML.

    Raises:
        ValueError: a number is none of JSON: the template has computed an infinite one.
    """
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
