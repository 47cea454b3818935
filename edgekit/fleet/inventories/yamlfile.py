"""YAML files of Ansible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edgekit.errors import UsageError


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
        raise UsageError(f"{path} cannot be read", " ".join(str(error).split())) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", str(error)) from error


class _Loader(yaml.SafeLoader):
    """YAML as Ansible has it: a value that only Ansible can read stays text with a template."""


def _only_ansible(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    return "{{ " + node.tag.removeprefix("!") + " }}"


for _tag in ("!vault", "!vault-encrypted"):
    _Loader.add_constructor(_tag, _only_ansible)
_Loader.add_constructor("!unsafe", lambda _, node: node.value)
