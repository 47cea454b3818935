"""Runs the unmodified model builder, with or without the low-memory patches around it.

python convert.py -i FOLDER -o OUT -p int4 -e cpu -c CACHE [--option KEY=VALUE …]
    [--path auto|stock|low-memory] --report FILE
"""

import argparse
from typing import Any

from reporting import Reporter, run


def convert(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The result event."""
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    # without hf_token=false it insists on a login, although it reads local files only
    pairs = ["hf_token=false", *args.option]
    where = (None, args.input, args.output, args.precision, args.provider, args.cache)
    create_model(*where, **parse_extra_options(*where, pairs))
    return {"path": "stock", "note": ""}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-i", "--input", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("-p", "--precision", required=True)
    parser.add_argument("-e", "--provider", required=True)
    parser.add_argument("-c", "--cache", required=True)
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--path", default="auto")
    run(parser, convert)
