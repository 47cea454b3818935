"""Builds tiny models by both routes in one process, run with the toolchain's interpreter.

    python convert_ways.py INSIDE FOLDER CASES RESULTS

INSIDE is the folder of `convert.py`, CASES a JSON file: a list of {name, model, precision, options
and provider, path and plant where they are not usual}. RESULTS takes one JSON object: name ->
{stock and low: file -> sha256, result: the result event or {"error": …}, left: names in the
output's folder, seconds}. The size limits of the low-memory route are small here, therefore
tiny models go through all of it. A plant breaks one thing for one case.
"""

# mypy: disable-error-code="import-not-found,import-untyped"

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SMALL_BYTES, COLUMNS, SLAB_BLOCKS = 512, 40, 100


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float | None]] = []

    def progress(self, detail: str, fraction: float | None = None) -> None:
        self.told.append((detail, fraction))


@contextlib.contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets another value for a name; `None` removes the name."""
    own = getattr(owner, name)
    if value is None:
        delattr(owner, name)
    else:
        setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, own)


def planted(what: str) -> contextlib.AbstractContextManager[None]:
    """Breaks one thing."""
    from lowmem import check as lowmem_check
    from lowmem import kquant
    from lowmem import tensors as lowmem_tensors
    from onnxruntime.quantization.neural_compressor import weight_only

    if what == "search":

        def wrong(*args: Any) -> Any:
            values, scale, zero = stock(*args)
            return values, scale * (1 + 2**-40), zero

        stock = kquant.search
        return swapped(kquant, "search", wrong)
    if what == "name":
        return swapped(weight_only, "quant_tensor", None)
    if what == "stub":
        return swapped(lowmem_tensors.OffloadedTensors, "put_back", lambda *_: None)
    if what == "versions":
        return swapped(lowmem_check, "COMPARED_VERSIONS", ({"numpy": "0.1"},))
    if what == "different":  # new versions, and a layer that comes out different
        stack = contextlib.ExitStack()
        stack.enter_context(swapped(lowmem_check, "COMPARED_VERSIONS", ({"numpy": "0.1"},)))
        other = Path(__file__).parents[1] / "fakes" / "inside" / "convert_different.py"
        stack.enter_context(swapped(lowmem_check, "SCRIPT", other))
        return stack  # type: ignore[return-value]  # its __exit__ may swallow, and does not
    assert not what, what
    return contextlib.nullcontext()


def run_case(case: dict[str, Any], models: dict[str, Path], folder: Path) -> dict[str, Any]:
    """What came out of it."""
    import convert
    from lowmem.check import contents

    def build(path: str) -> tuple[dict[str, str], Any, Silent]:
        out = folder / case["name"] / path
        out.parent.mkdir(exist_ok=True)
        words = ["-i", models[case["model"]], "-o", out, "-p", case["precision"]]
        words += ["-e", case.get("provider", "cpu"), "-c", out.parent / "cache", "--path", path]
        for key, value in case["options"].items():
            words += ["--option", f"{key}={models.get(value, value)}"]
        (out.parent / "cache").mkdir(exist_ok=True)
        reporter = Silent()
        try:
            result = convert.convert(convert.parser().parse_args(list(map(str, words))), reporter)
        except Exception as error:  # a refusal is a result here
            return {}, {"error": str(error)}, reporter
        return contents(out), result, reporter

    started = time.monotonic()
    stock, _, _ = build("stock")
    with planted(case.get("plant", "")):
        low, result, reporter = build(case.get("path", "low-memory"))
    return {
        "stock": stock,
        "low": low,
        "result": result,
        "told": reporter.told,
        "left": sorted(path.name for path in (folder / case["name"]).rglob("*")),
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    inside, folder, cases, results = map(Path, sys.argv[1:])
    sys.path.insert(0, str(inside))
    import lowmem_models
    from lowmem import kquant
    from lowmem import patches as lowmem
    from lowmem import tensors as lowmem_tensors

    lowmem_tensors.SMALL_BYTES = SMALL_BYTES
    lowmem.COLUMNS = COLUMNS
    kquant.SLAB_BLOCKS = SLAB_BLOCKS
    models = lowmem_models.make_all(folder)
    given = json.loads(cases.read_text(encoding="utf-8"))
    made = {case["name"]: run_case(case, models, folder) for case in given}
    results.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
