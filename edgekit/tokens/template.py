"""Renders a chat template as transformers does (`apply_chat_template` of version 5).

The environment has the settings that Hugging Face documents for chat templates: a sandbox whose
values cannot be changed, trimmed blocks, loop controls, the tag `generation`, a `tojson` that keeps
HTML's characters, `strftime_now`, `raise_exception`, and namespaces without private names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from edgekit.errors import EdgekitError
from edgekit.tokens.options import options_of

MAX_RENDERED_CHARACTERS = 1 << 20  # eight times what a prompt's body may hold

Value = Mapping[str, Any]  # a JSON object
NOTHING: Value = MappingProxyType({})
Message = Value  # role and content, and what else transformers' templates know
Clock = Callable[[], datetime]
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")


class ChatRefusedError(EdgekitError):
    """The chat template refuses the conversation, or the conversation cannot be encoded safely."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the template, in Jinja's language.
        named: the tokenizer's named tokens, which templates read as variables (`bos_token`).
        clock: the local time for templates that print a date.

    Attributes:
        constants: the strings in its expressions.
        read: the names of the fields that it reads.
        written: the texts between them.
        options: the names of the variables that a caller may set.
        image: what stands in a picture's place, where it takes a message's content as parts.
        takes_text: whether it takes a message's content as a text.

    Raises:
        EdgekitError: the template has a syntax error.
    """

    def __init__(self, source: str, named: Mapping[str, str], clock: Clock) -> None:
        self._named = dict(named)
        environment = _environment(clock)
        try:
            self._template = environment.from_string(source)
            tree = environment.parse(source)
        except TemplateError as error:
            raise EdgekitError(
                "the chat template cannot be read",
                f"{type(error).__name__}: {error}",
                "mend chat_template.jinja: transformers cannot read it either",
            ) from error
        self.constants = frozenset(_constants(tree))
        self.read = frozenset(each.attr for each in tree.find_all(nodes.Getattr))
        self.written = frozenset(node.data for node in tree.find_all(nodes.TemplateData))
        self.options = options_of(tree, named)
        self.image: str | None = None
        self.takes_text = True

    def render(
        self, messages: Sequence[Message], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> str:
        """Return the prompt's text, which ends where the answer begins.

        Args:
            messages: the conversation.
            tools: those that the model may call, as OpenAI's API describes them.
            options: further variables of the template (`chat_template_kwargs`).

        Raises:
            ChatRefusedError: the template refuses these messages, cannot be run with them, or makes
                more than `MAX_RENDERED_CHARACTERS` of them.
        """
        parts: list[str] = []
        size = 0
        try:
            variables = {
                **self._named,
                **options,
                "messages": [_as_given(message) for message in messages],
                "tools": list(tools) or None,
                "documents": None,
                "add_generation_prompt": True,
            }
            for part in self._template.generate(variables):
                parts.append(part)
                size += len(part)
                if size > MAX_RENDERED_CHARACTERS:
                    raise ChatRefusedError(
                        f"the chat template makes more than {MAX_RENDERED_CHARACTERS} characters "
                        "of this conversation"
                    )
        except (ChatRefusedError, TimeoutError, MemoryError):
            raise
        except Exception as error:  # the template is the model's own code: it may raise anything
            raise ChatRefusedError(f"the chat template refused: {error}") from error
        return "".join(parts)


def _as_given(message: Message) -> dict[str, Any]:
    """Return a message as transformers gives it to a template.

    A field that is null is not there, and thinking has both names that templates read.
    """
    given = {name: value for name, value in message.items() if value is not None}
    thoughts = next((given[name] for name in _THOUGHTS if name in given), None)
    if thoughts is None:
        return given
    return {"thinking": thoughts, **given, "reasoning_content": thoughts}


def _constants(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all(nodes.Const):
        if isinstance(node.value, str):
            yield node.value


def _environment(clock: Clock) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )

    def strftime_now(format: str) -> str:  # noqa: A002  templates may name the argument
        return clock().strftime(format)

    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": strftime_now,
        "dict": _Dictionaries(),
        "namespace": _PublicNamespace,
    }
    return environment


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


class _Generation(Extension):
    """The tag `generation`, which marks an assistant's text for training; here it only renders.

    The body runs as a macro, as in transformers: what it assigns is not seen after it.
    """

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dictionaries:
    """The global `dict`, without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _PublicNamespace(Namespace):
    """A namespace that refuses names with a leading underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_public(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template cannot store the private name {name!r}")
