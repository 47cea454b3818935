"""The part of the gate's report that shows the pictures. Pure."""

from __future__ import annotations

from html import escape

from edgekit.builder.gate.pictures import FEATURES, FIRST, SWAP
from edgekit.builder.gate.seen import PictureReport, PictureScore

_HEAD = (
    "<tr><th>picture</th><th>fixed answer</th><th>tokens</th><th>features off by</th>"
    "<th>KL, full vision</th><th>KL, this vision</th><th>first token</th><th>KL of another "
    "picture</th></tr>"
)


def pictures_part(report: PictureReport) -> str:
    """The figures of all pictures, each shown."""
    limit = FEATURES[report.vision]
    facts = [
        f"mean error of the features {report.feature_error:.2g} (refused at {limit.refuse:g})",
        f"mean KL divergence {report.kl:.4g}, of which the text part {report.kl_text:.4g}",
        f"same first token {report.first:.0%} (refused below {FIRST.refuse:.0%})",
    ]
    if report.swap is not None:
        facts.append(
            f"another picture changes the answer by {report.swap:.0%} of what it should at least "
            f"(refused below {SWAP.refuse:.0%})"
        )
    rows = "".join(map(_row, report.scores))
    return (
        f"<h2>Pictures</h2><p>Drawn by code, each with the question "
        f"&ldquo;{escape(_question(report))}&rdquo; and a fixed answer, "
        f"against full precision; vision in {escape(report.vision)}, "
        f"{report.seconds:.0f} s. {'; '.join(facts).capitalize()}.</p><table>{_HEAD}{rows}</table>"
    )


def _question(report: PictureReport) -> str:
    return report.scores[0].question if report.scores else ""


def _row(score: PictureScore) -> str:
    swap = "" if score.swap is None else f"{score.swap:.3g} (full {score.reference_swap:.3g})"
    cells = (
        str(score.tokens), f"{score.feature_error:.2g}", f"{score.kl_text:.3g}", f"{score.kl:.3g}",
        "same" if score.first_same else "another", swap,
    )  # fmt: skip
    numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    picture = f'<img alt="" src="{escape(score.png)}">'
    return f"<tr><td>{picture}</td><td>{escape(score.answer)}</td>{numbers}</tr>"
