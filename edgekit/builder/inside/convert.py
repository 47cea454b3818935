"""Runs the unmodified model builder, by the low-memory or by the stock route.

    python convert.py -i FOLDER -o OUT -p int4 -e cpu -c CACHE [--option KEY=VALUE …]
        [--leftover PATTERN …] [--path auto|stock|low-memory] --report FILE

A checkpoint with a tensor too few or too many is an error of kind `incomplete`, unless its name has
one of the patterns.

`auto` takes the low-memory route where it is known, or has just been checked, to make the same
bytes. The result event has `path` (the route) and `note` (why it is not the other). For the
low-memory route it also has `outside` and `spooled`: the numbers of tensors that were kept out of
the protobuf, and of those in the spool file.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.first_cosine import compute_first_cosine
from common.loading import strict_adapters, strict_loading
from common.reporting import Reporter, ScriptError, run
from lowmem.check import differs, not_covered, versions_compared

STOCK, LOW_MEMORY = "stock", "low-memory"
ATTRIBUTES = "edgekit_attributes"


def convert(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Build the model; return the result event."""
    why_stock = stock_reason(args, reporter)
    if args.route == STOCK or why_stock:
        build(args)
        return {"path": STOCK, "note": why_stock}
    from lowmem.patches import patched

    options = options_of(args)
    inputs = [Path(args.input), *(Path(options[k]) for k in ("adapter_path",) if k in options)]
    # beside the output: as large as the output itself, and /tmp may be memory
    with tempfile.TemporaryDirectory(dir=Path(args.output).parent, prefix="spool-") as folder:
        with patched(inputs, Path(folder) / "spool", reporter) as low:
            build(args)
        return {
            "path": LOW_MEMORY,
            "note": "; ".join(low.notes),
            "outside": low.outside.stubs,
            "spooled": low.outside.spooled,
        }


def stock_reason(args: argparse.Namespace, reporter: Reporter) -> str:
    """Why `auto` takes the stock route; empty for the low-memory route, and for `--path stock`.

    Raises:
        ScriptError: `--path low-memory` does not cover this model.
    """
    if args.route == STOCK:
        return ""
    options = options_of(args)
    config = Path(args.input) / "config.json"
    why = not_covered(json.loads(config.read_text(encoding="utf-8")), options)
    if args.route == LOW_MEMORY:
        if why:
            raise ScriptError("low-memory", why)
        return ""
    if not why and not versions_compared():
        arguments = ["-i", args.input, "-p", args.precision, "-e", args.provider, "-c", args.cache]
        arguments += [word for each in args.leftover for word in ("--leftover", each)]
        why = differs(arguments, options, Path(args.output), reporter)
    return why


def options_of(args: argparse.Namespace) -> dict[str, str]:
    """The builder's options by their keys."""
    return dict(pair.split("=", 1) for pair in args.option)


def build(args: argparse.Namespace) -> None:
    """Call the builder's own entry point."""
    from onnxruntime_genai.models import builder

    compute_first_cosine()
    builder.AutoConfig = AutoConfigWithAttributes
    # without hf_token=false it requires a login, although it reads local files only
    pairs = ["hf_token=false", *args.option]
    where = (None, args.input, args.output, args.precision, args.provider, args.cache)
    options = options_of(args)
    layers = int(options["num_hidden_layers"]) if "num_hidden_layers" in options else None
    with ExitStack() as stack:
        stack.enter_context(strict_loading(args.leftover, layers))
        if "adapter_path" in options:
            stack.enter_context(strict_adapters())
        builder.create_model(*where, **builder.parse_extra_options(*where, pairs))


class AutoConfigWithAttributes:
    """Stands in for transformers.AutoConfig; sets the attributes that only the builder reads."""

    @staticmethod
    def from_pretrained(*where: Any, **how: Any) -> Any:
        """The configuration; its `edgekit_attributes` (builder/support/mend.py) are set on it."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(*where, **how)
        for key, value in getattr(config, ATTRIBUTES, {}).items():
            setattr(config, key, value)
        return config


def parser() -> argparse.ArgumentParser:
    """The command line without `--report`."""
    made = argparse.ArgumentParser()
    made.add_argument("-i", "--input", required=True)
    made.add_argument("-o", "--output", required=True)
    made.add_argument("-p", "--precision", required=True)
    made.add_argument("-e", "--provider", required=True)
    made.add_argument("-c", "--cache", required=True)
    made.add_argument("--option", action="append", default=[])
    made.add_argument("--leftover", action="append", default=[], help="pattern of a name")
    made.add_argument("--path", dest="route", default="auto", choices=("auto", STOCK, LOW_MEMORY))
    return made


if __name__ == "__main__":
    run(parser(), convert)
