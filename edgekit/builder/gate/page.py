"""The gate's report as one self-contained HTML page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

from edgekit.builder.gate.chart import bars, curve, scatter
from edgekit.builder.gate.ladder import RecipeResult
from edgekit.builder.gate.picturepage import pictures_part
from edgekit.builder.gate.verdict import GateReport, Limit

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
svg { width: 100%; margin: .5rem 0 } svg text { font-size: 11px; fill: #555 }
svg .label { text-anchor: middle } svg .mark { text-anchor: end }
svg .frame { fill: none; stroke: #bbb } svg rect, svg circle { fill: #36c }
svg polyline { fill: none; stroke: #36c; stroke-width: 1 }
td img { height: 64px; display: block; margin: .2rem 0 }
.refused { color: #b00 } .passed { color: #070 }
"""

_WORDS = {
    "kl_mean": "mean KL divergence (nats per token)",
    "kl_p99": "99 % KL divergence",
    "top1": "same most likely token (at least)",
    "perplexity_ratio": "perplexity ÷ full precision's",
    "loops_added": "answers that loop, beyond full precision's",
    "ends_lost": "answers that no longer end",
    "template_mismatches": "chats rendered unlike Hugging Face",
    "token_mismatches": "texts tokenised unlike Hugging Face",
    "long_kl": "mean KL divergence far into a long text",
    "cache_kl": "mean KL divergence through the cache, from itself",
    "weight_error": "largest relative error of a matrix",
    "rotary_error": "largest error of a rotary table",
}


def page(title: str, report: GateReport, tried: Sequence[RecipeResult] = ()) -> str:
    """The page: verdict, numbers against limits, KL per token, layers, recipes tried.

    Args:
        title: heading of the page: model and recipe.
        tried: results of the recipes that `auto` tried.
    """
    verdict = "passed" if report.verdict.passed else "refused"
    parts = [
        f"<h1>{escape(title)}</h1>",
        (
            f'<p>The gate <b class="{verdict}">{verdict}</b> this model with the profile '
            f"<b>{escape(report.profile)}</b>: {report.metrics.positions} tokens of "
            f"{report.metrics.texts} texts, {report.seconds:.0f} s.</p>"
        ),
        *(f'<p class="refused">{escape(f.message)}</p>' for f in report.verdict.findings),
        *(f"<p>{escape(f.message)}</p>" for f in report.verdict.warnings),
        *(f"<p>{escape(note)}</p>" for note in report.notes),
        _numbers(report),
        *_plots(report),
        *([pictures_part(report.pictures)] if report.pictures else []),
    ]
    if report.attribution:
        loss = report.attribution
        parts.append(
            f"<h2>Where the loss comes from</h2><p>Mean KL divergence of each step: export "
            f"{loss.export:.4f}, weights {loss.weights:.4f}, activations {loss.activations:.4f}. "
            f"Most is lost by the {escape(loss.largest)}.</p>"
        )
    if tried:
        points = [(t.recipe, t.total_bytes / 1e6, t.mean_kl) for t in tried]
        parts.append("<h2>Recipes tried</h2>")
        parts.append(scatter("Size against KL of each recipe", points, "MB", "mean KL"))
        parts.append(_recipes(tried))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _numbers(report: GateReport) -> str:
    rows = []
    for name, words in _WORDS.items():
        measured, limit = getattr(report.metrics, name), getattr(report.thresholds, name)
        if measured is None or not isinstance(limit, Limit):
            continue
        rows.append(
            f'<tr><td>{escape(words)}</td><td class="n">{measured:.4g}</td>'
            f'<td class="n">{limit.warn:g}</td><td class="n">{limit.refuse:g}</td></tr>'
        )
    speed = f"{report.metrics.tokens_per_second:.0f}"
    rows.append(f'<tr><td>tokens/s here, greedy</td><td class="n">{speed}</td></tr>')
    head = "<tr><th></th><th>measured</th><th>warns at</th><th>refused at</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _plots(report: GateReport) -> list[str]:
    parts = []
    kl = [value for text in report.tokens for value in text.kl]
    if kl:
        parts.append("<h2>KL divergence by token</h2>")
        parts.append(curve("KL divergence by token", kl, "token, text after text", "KL"))
        ordered = sorted(kl)
        parts.append(curve("The same, sorted", ordered, "tokens, best to worst", "KL"))
    if report.layers:
        values = [(f"layer {layer.layer}", layer.kl) for layer in report.layers]
        parts.append("<h2>What each layer loses</h2>")
        parts.append(bars("KL when one layer alone is quantised", values, "layer", "KL"))
    if report.matrices:
        errors = [(f"{m.name} ({m.bits} bits)", m.error) for m in report.matrices]
        parts.append("<h2>Error of each matrix</h2>")
        parts.append(bars("Relative error of each matrix", errors, "matrix", "error"))
    return parts


def _recipes(tried: Sequence[RecipeResult]) -> str:
    rows = "".join(
        f'<tr><td>{escape(t.recipe)}</td><td class="n">{t.total_bytes / 1e6:.1f} MB</td>'
        f'<td class="n">{t.mean_kl:.4f}</td><td class="n">{t.same_top1:.3f}</td>'
        f'<td class="n">{t.tokens_per_second:.0f}</td>'
        f"<td>{'passed' if t.passed else escape(', '.join(t.findings))}</td></tr>"
        for t in tried
    )
    head = (
        "<tr><th>recipe</th><th>size</th><th>mean KL</th><th>top-1</th><th>tokens/s</th>"
        "<th>gate</th></tr>"
    )
    return f"<table>{head}{rows}</table>"


def encode(report: GateReport) -> bytes:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
