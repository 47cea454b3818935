"""YAML files of Ansible."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import yaml

from edgekit.errors import UsageError

MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """The content of a file; raises UsageError for one that is encrypted, or no YAML."""
    text = path.read_bytes()
    if text.startswith(b"$ANSIBLE_VAULT"):
        raise UsageError(
            f"{path} is encrypted",
            "only ansible-vault can read it",
            "keep what edgekit needs in another file; it needs no password of a device",
        )
    try:
        return yaml.load(text, _Loader)  # noqa: S506  it is a SafeLoader
    except yaml.YAMLError as error:
        told = " ".join(str(error).replace('in "<byte string>", ', "in ").split())
        raise UsageError(
            f"{path} cannot be read", told, next_step="correct it in the file"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8", str(error), next_step="save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # such as the 45th day of a month
        raise UsageError(
            f"{path} cannot be read", str(error), next_step="correct it in the file"
        ) from error


class _Loader(yaml.SafeLoader):
    """YAML as Ansible has it: a value that only Ansible can read stays text with a template.

    A key that comes twice is refused, where Ansible warns: the first one's hosts would be lost.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before merges add to it."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


def _only_ansible(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    return "{{ " + node.tag.removeprefix("!") + " }}"


def _unsafe(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """What the value would be without the tag."""
    plain = copy(node)  # the loader would take the node itself for one within itself
    resolve: Any = loader.resolve
    plain.tag = resolve(type(node), node.value, (True, False))
    return loader.construct_object(plain, deep=True)


for _tag in ("!vault", "!vault-encrypted"):
    _Loader.add_constructor(_tag, _only_ansible)
_Loader.add_constructor("!unsafe", _unsafe)
