"""Builds one Hugging Face folder in several ways, in one process; for the toolchain's interpreter.

    python build_recipes.py SOURCE OUT "NAME|PRECISION|PROVIDER[|KEY=VALUE…]"…

The stock builder, called as its command line calls it. Starting it takes longer than a tiny model.
"""

# mypy: disable-error-code="import-not-found"

import sys
from pathlib import Path


def main() -> None:
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    source, out = sys.argv[1], Path(sys.argv[2])
    for recipe in sys.argv[3:]:
        # a value of the option for mixed precision has colons of its own
        name, precision, provider, *options = recipe.split("|")
        folder = out / name
        folder.mkdir(parents=True)
        place = (str(folder), precision, provider, str(folder / "cache"))
        parsed = parse_extra_options("", source, *place, options)
        create_model("", source, *place, **parsed)


if __name__ == "__main__":
    main()
