"""Finds the variables that a chat template takes beside a conversation, as `enable_thinking`. Pure.

Transformers gives a template whatever a caller names (`chat_template_kwargs`), and a template
ignores what it does not read. Here a requester may name only what the template reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from jinja2 import meta, nodes

# What a template gets in any case, and what transformers says of a conversation by itself
_GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
)
_DEFINED = ("defined", "undefined", "none")


def options_of(tree: nodes.Template, named: Collection[str]) -> tuple[str, ...]:
    """Return the names of the variables that a caller may set, in order.

    A name that the template itself sets is none, unless it sets it only where nobody has, or makes
    the first value of what a caller has set.

    Args:
        tree: the template's syntax tree.
        named: the tokenizer's named tokens, which templates read, too.
    """
    read = meta.find_undeclared_variables(tree)
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
    theirs = _defaulted(tree) | _made_of_theirs(tree)
    return tuple(sorted((read - (own - theirs)) - _GIVEN - set(named)))


def _defaulted(tree: nodes.Template) -> set[str]:
    """Return what is set inside an `if` that asks whether it is defined."""
    return {
        name
        for branch in tree.find_all(nodes.If)
        for name in _asked(branch.test)
        if any(name in _stored(node) for node in (*branch.body, *branch.elif_, *branch.else_))
    }


def _made_of_theirs(tree: nodes.Template) -> set[str]:
    """Return what is first set to something made of itself, as `set x = x | default(1)` does."""
    values = {id(each.target): each.node for each in tree.find_all(nodes.Assign)}
    first: dict[str, nodes.Node | None] = {}
    for name in tree.find_all(nodes.Name):
        if name.ctx != "load":
            first.setdefault(name.name, values.get(id(name)))
    return {name for name, value in first.items() if value is not None and _reads(value, name)}


def _reads(value: nodes.Node, name: str) -> bool:
    names = [value] if isinstance(value, nodes.Name) else value.find_all(nodes.Name)
    return any(each.name == name for each in names)


def _asked(test: nodes.Node) -> Iterator[str]:
    asked = [test] if isinstance(test, nodes.Test) else []
    for each in [*asked, *test.find_all(nodes.Test)]:
        if each.name in _DEFINED and isinstance(each.node, nodes.Name):
            yield each.node.name


def _stored(node: nodes.Node) -> set[str]:
    names = [node] if isinstance(node, nodes.Name) else [*node.find_all(nodes.Name)]
    return {name.name for name in names if name.ctx == "store"}
