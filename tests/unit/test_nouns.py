"""One noun, one thing: each class name of the package stands for one class (docs/glossary.md)."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "edgekit"


def public_classes(tree: ast.AST) -> list[str]:
    """Names of the public classes of a module, nested ones included.

    Classes inside a function are its own business, and so are those inside a private class.
    """
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.ClassDef):
            if node.name.startswith("_"):
                continue
            found.append(node.name)
        found += public_classes(node)
    return found


def places_of_classes() -> dict[str, list[str]]:
    """Class name -> the files that define it."""
    places: dict[str, list[str]] = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        for name in public_classes(ast.parse(file.read_text(encoding="utf-8"))):
            places[name].append(file.relative_to(PACKAGE).as_posix())
    return places


def test_a_class_name_stands_for_one_class() -> None:
    places = places_of_classes()
    assert len(places) > 100  # the package was read
    shared = {name: files for name, files in places.items() if len(files) > 1}
    assert shared == {}


def test_a_second_class_of_a_name_is_seen() -> None:
    tree = ast.parse(
        "class Frame: ...\n"
        "class Outer:\n class Frame: ...\n"
        "if True:\n class Frame: ...\n"
        "class _Private:\n class Frame: ...\n"
        "def make():\n class Frame: ...\n"
    )
    assert public_classes(tree).count("Frame") == 3
