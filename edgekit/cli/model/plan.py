"""Formats what a build would take, and what its gate took. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.builder.gate.verdict import GateTime
from edgekit.builder.plan.cost import RouteCost
from edgekit.builder.plan.pictures import PictureTime
from edgekit.builder.plan.plan import Plan, PlannedModel
from edgekit.builder.plan.profiles import DeviceFit
from edgekit.builder.support.limits import Refusal
from edgekit.cli.render import size

_GIB = 2**30


def plan_text(plan: Plan) -> str:
    """The plan in short tables, for a terminal or none."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield _title(plan)
    yield from _refused(plan.refusals)
    if plan.download_bytes:
        yield f"downloads {size(plan.download_bytes)}"
    for note in plan.notes:
        yield f"note: {note}"
    if not plan.rows:
        return
    yield ""
    yield from _table(
        ("recipe", "size", "build memory", "build time", "disk", "path", "KV per token"),
        [_row(row) for row in plan.rows],
    )
    yield from _refused_rows(plan.rows)
    if plan.gate:
        again, extra = (_minutes(s) for s in (plan.gate.again_seconds, plan.gate.extra_seconds))
        yield (
            f"gate: {_minutes(plan.gate.seconds)}, {again} for the next model of this source; "
            f"{extra} of it for a long text"
        )
    yield ""
    yield from _table(
        ("longest context, tokens/s", *(row.recipe or row.precision for row in plan.rows)),
        [
            (device.device, *(_on_device(row.devices[index], len(plan.rows)) for row in plan.rows))
            for index, device in enumerate(plan.rows[0].devices)
        ],
    )
    if plan.rows[0].pictures:
        yield ""
        yield from _pictures(plan.rows[0])
    if len(plan.rows) == 1:
        yield "tokens/s: typically reached, of what the bandwidth of the memory allows"


def _pictures(row: PlannedModel) -> Iterator[str]:
    """What square pictures take, all of it estimates."""
    costs = row.pictures
    yield from _table(
        ("a square picture, estimated", *(_crops(cost.crops) for cost in costs)),
        [
            ("tokens", *(str(cost.tokens) for cost in costs)),
            ("memory", *(f"~{cost.memory_bytes / _GIB:.1f} GiB" for cost in costs)),
            *(
                (device.device, *(_seen(cost.devices[index]) for cost in costs))
                for index, device in enumerate(costs[0].devices)
            ),
        ],
    )
    yield (
        "seconds until the answer begins: estimates from one measured machine and from data "
        "sheets, measured on none of these devices; "
        f"{size(row.vision_bytes)} of the model see and embed"
    )


def _crops(count: int) -> str:
    return "1 crop" if count == 1 else f"{count} crops"


def _seen(time: PictureTime) -> str:
    if not time.fits:
        return "does not fit"
    low, high = time.seconds
    return f"~{low:.0f} to {high:.0f} s" if high >= 10 else f"~{low:.1f} to {high:.1f} s"


def _title(plan: Plan) -> str:
    facts = [plan.model, plan.architecture]
    if plan.parameters:
        facts.append(f"{plan.parameters / 1e9:.3g} B weights")
    if plan.context:
        facts.append(f"context {plan.context}")
    facts.append("can be built" if plan.supported else "CANNOT be built")
    return "  ".join(fact for fact in facts if fact)


def _refused_rows(rows: Sequence[PlannedModel]) -> Iterator[str]:
    """Each refusal once, with the recipes that it meets."""
    met: dict[str, list[str]] = {}
    first: dict[str, Refusal] = {}
    for row in rows:
        for refusal in row.refusals:
            met.setdefault(refusal.what, []).append(row.recipe or row.precision)
            first.setdefault(refusal.what, refusal)
    for what, names in met.items():
        yield f"cannot be built here: {', '.join(names)}"
        yield from _refused([first[what]])


def _on_device(fit: DeviceFit, columns: int) -> str:
    if not fit.fits:
        return "does not fit"
    low, high = (_number(value) for value in fit.likely)
    if columns > 1:  # of five, each has to be short
        return f"{fit.context}, {low}-{high}"
    return f"{fit.context}, {low} to {high} of {_number(fit.ceiling)}"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _row(row: PlannedModel) -> tuple[str, ...]:
    cost = _shown(row)
    return (
        row.recipe or row.precision,
        ("" if row.exact else "~") + size(row.output_bytes),
        f"{cost.peak_rss_bytes / _GIB:.2f} GiB",
        _minutes(cost.seconds),
        size(cost.disk_bytes),
        row.route or "none",
        size(row.kv_bytes_per_token),
    )


def _shown(row: PlannedModel) -> RouteCost:
    """The route that would be taken; the cheapest where none can."""
    return next((each for each in row.routes if each.route == row.route), row.routes[0])


def _minutes(seconds: float) -> str:
    return f"~{seconds:.0f} s" if seconds < 100 else f"~{seconds / 60:.0f} min"


def _refused(refusals: Sequence[Refusal]) -> Iterator[str]:
    for refusal in refusals:
        yield refusal.what
        if refusal.why:
            yield f"  why:  {refusal.why}"
        if refusal.next_step:
            yield f"  next: {refusal.next_step}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they have to be; the first to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        yield "  ".join(cells).rstrip()


def gate_took(time: GateTime) -> str:
    """The gate's time, what was announced, and what its long text cost."""
    announced = f"{time.announced_seconds:.0f} s were announced, " * bool(time.announced_seconds)
    return (
        f"the gate took {time.seconds:.0f} s "
        f"({announced}{time.extra_seconds:.1f} s are the long text and the cache)"
    )
