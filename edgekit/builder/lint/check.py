"""Reads a built model folder back with the toolchain, and checks it by the rules of `rules.py`.

Where the source is at hand, the folder is also compared with it (`source.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.lint.facts import FolderFacts, facts_of
from edgekit.builder.lint.finding import Finding
from edgekit.builder.lint.rules import lint
from edgekit.builder.lint.source import UNREADABLE, Compared, compared_of, unlike_source
from edgekit.builder.request.asked import Asked, asked_for
from edgekit.builder.spec import BuildSpec
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import event
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core import reading
from edgekit.errors import UsageError, VerificationError

DEADLINE_SECONDS = 1800  # every weight is read once, and the disk may be slow


def asked_of(spec: BuildSpec, source: Path) -> Asked:
    """The required properties of a build's model.

    Args:
        source: the Hugging Face folder that the model is made from.

    Raises:
        UsageError: config.json cannot be read.
    """
    return asked_for(
        spec.precision,
        spec.provider,
        spec.options,
        _json(source / "config.json"),
        context=spec.context,
        has_template=has_template_of(source),
        vision=spec.vision or "",
    )


def check_folder(
    model: Path,
    asked: Asked,
    toolchain: Toolchain,
    work: Path,
    report: ProgressCallback,
    source: Path | None = None,
) -> tuple[Finding, ...]:
    """All findings about a model folder, refusals first.

    Args:
        asked: the required properties.
        work: a writable folder for the log.
        source: the Hugging Face folder that the model was made from; None leaves out the
            comparison with it.

    Raises:
        EdgekitError: the folder could not be inspected.
    """
    facts = read_facts(model, toolchain, work, report)
    found = lint(facts, asked)
    if source is None or any(finding.name in UNREADABLE for finding in found):
        return found
    trusted = asked.given.get("hf_remote") == "true"
    compared = compare(model, source, toolchain, work, report, facts.graph_name, trusted)
    return sort_findings((*found, *unlike_source(compared)))


def sort_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings, refusals first."""
    return tuple(sorted(findings, key=lambda finding: finding.severity == "warn"))


def compare(
    model: Path,
    source: Path,
    toolchain: Toolchain,
    work: Path,
    report: ProgressCallback,
    graph_name: str = "model.onnx",
    trusted: bool = False,
) -> Compared:
    """Compare a readable model folder with its source.

    Args:
        graph_name: name of the graph's file.
        trusted: the source's own code may run.

    Raises:
        EdgekitError: the comparing script failed.
    """
    words: tuple[str | Path, ...] = ("--trust",) if trusted else ()
    job = Job(
        script="compare_source.py",
        arguments=("--model", model, "--source", source, "--graph", graph_name, *words),
        work=work,
        reads=(model, source),
        shows=Progress("lint", "comparing with the source"),
        deadline_seconds=DEADLINE_SECONDS,
    )
    finished = toolchain.run(job, report)
    result = event(finished, "result")
    if finished.code != 0 or result is None:
        raise failure(finished, "the model could not be compared with its source")
    return compared_of(result)


def read_facts(
    model: Path, toolchain: Toolchain, work: Path, report: ProgressCallback
) -> FolderFacts:
    """The facts of a model folder.

    Raises:
        EdgekitError: the inspecting script failed.
    """
    job = Job(
        script="inspect_model.py",
        arguments=("--model", model),
        work=work,
        reads=(model,),
        shows=Progress("lint", "reading the model back"),
        deadline_seconds=DEADLINE_SECONDS,
    )
    finished = toolchain.run(job, report)
    result = event(finished, "result")
    if finished.code != 0 or result is None:
        raise failure(finished, "the model could not be read back")
    return facts_of(result)


def refuse_unsound(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The warnings about a model that may ship, one line each.

    Raises:
        VerificationError: the model must not ship; the error names every reason.
    """
    if refusals := [f for f in findings if f.severity == "refuse"]:
        raise VerificationError(
            "the model is not what was asked for",
            why="; ".join(f"{f.name}: {f.message}" for f in refusals),
            next_step=f"nothing was kept; {way_out({f.name for f in refusals})}",
        )
    return tuple(f.message for f in findings)


def way_out(names: set[str]) -> str:
    """What to do about findings of these names."""
    ways = []
    if "option-ignored" in names:
        ways.append("leave the ignored option out, or spell it another way")
    if any(name.startswith(("data-", "file-", "graph-")) for name in names):
        ways.append("run it again, a damaged file goes away")
    if names & {"token-ids", "vocabulary", "chat-template-missing"}:
        ways.append("correct the source's tokenizer and config.json, or take the original model")
    return "; ".join(ways) or "take another recipe, or another model of that size"


def has_template_of(source: Path) -> bool:
    """Whether a Hugging Face folder has a chat template.

    Raises:
        UsageError: tokenizer_config.json cannot be read.
    """
    if (source / "chat_template.jinja").is_file():
        return True
    path = source / "tokenizer_config.json"
    return bool(path.is_file() and _json(path).get("chat_template"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, *reading.UNREADABLE) as error:
        raise UsageError(
            f"{path.name} of the model cannot be read",
            why=str(error),
            next_step="download it again, or correct it",
        ) from error
