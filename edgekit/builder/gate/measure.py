"""The quality gate's effects: runs the measuring scripts, caches references, makes the report.

The reference, the logits of the full-precision source, is computed once per source, text and
toolchain, and kept in `reference/` of the cache. Up to `SMALL_PARAMETERS` weights, the source
itself writes the text and is held in float32. Above that, the built model writes the text, and the
source reads it with one matrix in float32 at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

import edgekit.tokens
from edgekit.builder.files import hash_file, publish_cached, scratch
from edgekit.builder.gate.effort import SMALL_PARAMETERS, Effort, amounts, count_parameters
from edgekit.builder.gate.pictures import judge_pictures, merged
from edgekit.builder.gate.seen import PictureReport, PictureScore
from edgekit.builder.gate.verdict import (
    Attribution,
    GateMetrics,
    GateReport,
    LayerLoss,
    MatrixError,
    TextKl,
    Thresholds,
    judge,
)
from edgekit.builder.inside.gate.duration import Amounts
from edgekit.builder.spec import BuildSpec
from edgekit.builder.support.leftovers import explained
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import INSIDE, ProcessResult, event
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.data import cache_root
from edgekit.errors import EdgekitError

PROMPTS = Path(__file__).resolve().parent / "prompts.json"
TOKENS = Path(edgekit.tokens.__file__).resolve().parent  # the device's side of chats and tokens
EXTRA_SECONDS = 30.0
"""Budget of the long text, which the built model reads twice; beyond it single tokens are left out.
It is exceeded where the two readings alone take longer."""
DEADLINE_SECONDS = 6 * 3600
MEMORY_BYTES = 4 * 2**30
"""Memory limit of the gate's scripts for a source of up to 4 billion parameters."""

_REFERENCE_SCRIPTS = (
    "reference.py", "gate/chat.py", "gate/clock.py", "gate/logits.py", "gate/longtext.py",
    "gate/mapped.py", "gate/rotary.py", "gate/text.py", "gate/writing.py",
    "common/first_cosine.py", "common/mapped_pages.py", "common/reporting.py",
)  # fmt: skip
_PICTURE_SCRIPTS = (
    "picture_reference.py", "reference.py", "gate/drawing.py", "gate/logits.py", "gate/mapped.py",
    "gate/scenes.py", "sight/phi3v.py", "sight/smolvlm.py", "vision/families.py",
    "vision/smolvlm.py", "vision/tensors.py", "vision/weights.py", "common/first_cosine.py",
    "common/mapped_pages.py", "common/reporting.py", "common/weightfiles.py",
)  # fmt: skip
_WITHOUT = "build without the gate with --no-gate; such a model is marked as not measured"
_NOT_NUMERIC = frozenset(
    {
        *("template_mismatches", "token_mismatches", "loads", "cache_kl", "rotary_error"),
        *("picture_features", "picture_swap"),
    }
)
"""Findings that name their cause; each step of the build is compared by texts read at once."""


class Subject(msgspec.Struct, frozen=True):
    """A built model and the source that it is compared with.

    Attributes:
        model: the built folder.
        source: the Hugging Face folder that it was built from. For a model that takes pictures its
            view, whose config.json is the text part's.
        spec: the build's specification; it names the source's content and the toolchain.
        adapter: a LoRA adapter that was merged in, or None.
        told: the folder that the builder read instead of `source`, with a mended config.json; None
            where it read the source itself.
    """

    model: Path
    source: Path
    spec: BuildSpec
    adapter: Path | None = None
    told: Path | None = None


def assess(
    subject: Subject,
    thresholds: Thresholds,
    toolchain: Toolchain,
    report: ProgressCallback,
    *,
    effort: Effort | None = None,
    attribution: bool = True,
    sensitivity: bool = True,
) -> GateReport:
    """Measure a built model and judge it; a bad model is a verdict, not an error.

    Args:
        effort: the amount of text; default `Effort()`.
        attribution: for a refused model, also find the step that loses most (small models only).
        sensitivity: also measure the loss of each layer (small models only).

    Raises:
        EdgekitError: the model cannot be measured: it is for another provider, memory is short, or
            transformers cannot read the source.
    """
    started = time.monotonic()
    if subject.spec.provider != "cpu":
        raise EdgekitError(
            f"a model for {subject.spec.provider} cannot be measured on this machine's CPU",
            next_step="build the same model with -e cpu to see what its precision costs, "
            "or build without the gate (--no-gate)",
        )
    parameters = count_parameters(subject.source)
    small = parameters <= SMALL_PARAMETERS
    by_layer = small and sensitivity and subject.adapter is None
    work_to_do = amounts(subject.source, parameters, effort or Effort(), by_layer=by_layer)
    measuring = _Measuring(subject, toolchain, report, work_to_do)
    with scratch(cache_root() / "reference") as work:
        try:
            reference, made = measuring.reference(work)
            scored = measuring.score(work, reference)
        except _BrokenError as broken:
            return _no_load(thresholds, str(broken), started)
        metrics = msgspec.convert(scored["metrics"], GateMetrics)
        verdict = judge(metrics, thresholds)
        pictures = None
        if subject.spec.vision:
            try:
                pictures = measuring.pictures(work, subject.spec.vision)
            except _BrokenError as broken:
                return _no_load(thresholds, str(broken), started)
            verdict = merged(verdict, (judge_pictures(pictures, thresholds),))
        numeric = any(finding.name not in _NOT_NUMERIC for finding in verdict.findings)
        matrices = msgspec.convert(scored.get("matrices", ()), tuple[MatrixError, ...])
        cause = layers = None
        notes: list[str] = []
        # whatever happens to these two, the verdict stands
        if small and attribution and numeric:
            with _noted("the step that loses most", notes):
                cause = measuring.attribution(work, reference)
        if by_layer and metrics.loads:
            names = [matrix.name for matrix in matrices]
            with _noted("the loss of each layer", notes):
                layers = measuring.layers(work, reference, names)
    return GateReport(
        profile=thresholds.profile,
        thresholds=thresholds,
        metrics=metrics,
        verdict=verdict,
        tokens=msgspec.convert(scored["tokens"], tuple[TextKl, ...]),
        matrices=matrices,
        layers=layers,
        attribution=cause,
        reference=made,
        seconds=round(time.monotonic() - started, 1),
        announced_seconds=measuring.announced,
        extra_seconds=scored.get("extra_seconds", 0.0),
        notes=tuple(notes),
        pictures=pictures or msgspec.UNSET,
    )


def _no_load(thresholds: Thresholds, why: str, started: float) -> GateReport:
    metrics = GateMetrics(loads=False, load_error=why)
    return GateReport(
        profile=thresholds.profile,
        thresholds=thresholds,
        metrics=metrics,
        verdict=judge(metrics, thresholds),
        seconds=round(time.monotonic() - started, 1),
    )


def _leftovers(source: Path) -> tuple[str, ...]:
    """Patterns of the tensors that need no place in the source's model."""
    config = source / "config.json"
    told = msgspec.json.decode(config.read_bytes(), type=dict[str, Any]) if config.is_file() else {}
    return explained(told)


class _BrokenError(Exception):
    """The model itself is broken: the runtime refuses it or crashes on it."""


@contextmanager
def _noted(what: str, notes: list[str]) -> Iterator[None]:
    """Turn a failure to measure `what` into a note."""
    try:
        yield
    except EdgekitError as error:
        notes.append(f"{what} could not be measured: {error.why or error.what}")
    except _BrokenError as broken:
        notes.append(f"{what} could not be measured: {broken}")


class _Measuring(msgspec.Struct, frozen=True):
    """Runs each measuring script by one method."""

    subject: Subject
    toolchain: Toolchain
    report: ProgressCallback
    amounts: Amounts
    estimates: list[float] = []
    """Seconds that were announced: of the whole gate, then of a search for the cause."""

    @property
    def parameters(self) -> int:
        """Of the source."""
        return self.amounts.parameters

    @property
    def announced(self) -> float:
        """Seconds that were announced in all; 0 where nothing was."""
        return round(sum(self.estimates), 1)

    def reference(self, work: Path) -> tuple[Path, dict[str, float | bool]]:
        """The folder of the reference, computed or cached, and figures about its computation."""
        text = None if self.parameters <= SMALL_PARAMETERS else self._text(work)
        final = cache_root() / "reference" / self._key(text)
        summary = final / "summary.json"
        if summary.is_file():
            made = msgspec.json.decode(summary.read_bytes(), type=dict[str, float | bool])
            return final, made | {"cached": True}
        out = work / "out"
        given = ("--text", text) if text else ()
        adapter = ("--adapter", self.subject.adapter) if self.subject.adapter else ()
        finished = self._run(
            work, "reference.py", "the reference",
            ("--source", self.subject.source, "--prompts", PROMPTS, "--out", out,
             *self._amounts(), *given, *adapter),
        )  # fmt: skip
        if finished.code != 0:
            raise failure(finished, "full precision could not be measured", _WITHOUT)
        result = event(finished, "result") or {}
        made = {key: value for key, value in result.items() if key != "event"}
        made["peak_rss_bytes"] = finished.peak_rss_bytes
        (out / "summary.json").write_bytes(msgspec.json.encode(made))
        publish_cached(out, final)
        return final, made | {"cached": False}

    def score(self, work: Path, reference: Path) -> dict[str, Any]:
        """The result of `score.py`."""
        no_weights = ("--no-weights",) if self.subject.adapter else ()
        announces = () if self.estimates else ("--announce",)
        return self._result(
            self._run(
                work, "score.py", "the model",
                ("--model", self.subject.model, "--source", self.subject.source,
                 "--reference", reference, "--tokens", TOKENS, *self._amounts(),
                 "--budget", str(EXTRA_SECONDS), *no_weights, *announces),
                more=(TOKENS.parent / "errors.py",),
            )
        )  # fmt: skip

    def pictures(self, work: Path, vision: str) -> PictureReport:
        """What the model makes of pictures, against a reference that is computed or cached.

        Args:
            vision: precision of the vision part.
        """
        started = time.monotonic()
        final = cache_root() / "reference" / self._picture_key()
        if not final.is_dir():
            out = work / "pictures"
            mapped = () if self.parameters <= SMALL_PARAMETERS else ("--mapped",)
            arguments = ("--source", self.subject.source, "--out", out, *mapped)
            finished = self._run(work, "picture_reference.py", "pictures", arguments)
            if finished.code != 0:
                raise failure(finished, "full precision could not look at pictures", _WITHOUT)
            publish_cached(out, final)
        arguments = ("--model", self.subject.model, "--reference", final)
        made = self._result(self._run(work, "score_pictures.py", "pictures", arguments))
        scores = msgspec.convert(made["pictures"], tuple[PictureScore, ...])
        return PictureReport(vision, scores, round(time.monotonic() - started, 1))

    def attribution(self, work: Path, reference: Path) -> Attribution:
        """The loss of each step of the build, for a refused model."""
        subject = self.subject
        told = subject.told or subject.source
        adapter = ("--adapter", subject.adapter) if subject.adapter else ()
        leftovers = tuple(word for each in _leftovers(told) for word in ("--leftover", each))
        made = self._result(
            self._run(
                work, "attribute.py", "the cause",
                ("--model", subject.model, "--source", told, "--reference", reference,
                 "--work", work, *self._amounts(), *adapter, *leftovers),
            )
        )  # fmt: skip
        steps = ("export", "weights", "activations")
        # NaN counts as a total loss
        largest = max(steps, key=lambda step: made[step] if made[step] == made[step] else 1e9)
        return msgspec.convert(made | {"largest": largest}, Attribution)

    def layers(self, work: Path, reference: Path, matrices: list[str]) -> tuple[LayerLoss, ...]:
        """The loss of each layer, by its matrices that have a counterpart in the source."""
        names = work / "matrices.json"
        names.write_bytes(msgspec.json.encode(matrices))
        made = self._result(
            self._run(
                work, "layers.py", "the layers",
                ("--model", self.subject.model, "--source", self.subject.source,
                 "--reference", reference, "--matrices", names),
            )
        )  # fmt: skip
        return msgspec.convert(made["layers"], tuple[LayerLoss, ...])

    def _text(self, work: Path) -> Path:
        text = work / "text.json"
        self._result(
            self._run(
                work, "write_text.py", "the text",
                ("--model", self.subject.model, "--source", self.subject.source,
                 "--prompts", PROMPTS, "--out", text, *self._amounts()),
            )
        )  # fmt: skip
        return text

    def _amounts(self) -> tuple[str, str]:
        return ("--amounts", msgspec.json.encode(self.amounts).decode())

    def _key(self, text: Path | None) -> str:
        spec = self.subject.spec
        decides = {
            "source": spec.source.files,
            "adapter": spec.option_files.get("adapter_path", {}),
            "toolchain": spec.toolchain,
            "scripts": {name: hash_file(INSIDE / name) for name in _REFERENCE_SCRIPTS},
            "prompts": hash_file(PROMPTS),
            "amounts": dataclasses.asdict(replace(self.amounts, by_layer=True)),
            "text": hash_file(text) if text else "",
        }
        return hashlib.sha256(msgspec.json.encode(decides, order="sorted")).hexdigest()

    def _picture_key(self) -> str:
        spec = self.subject.spec
        decides = {
            "source": spec.source.files,
            "toolchain": spec.toolchain,
            "scripts": {name: hash_file(INSIDE / name) for name in _PICTURE_SCRIPTS},
        }
        return hashlib.sha256(msgspec.json.encode(decides, order="sorted")).hexdigest()

    def _run(
        self,
        work: Path,
        script: str,
        what: str,
        arguments: tuple[str | Path, ...],
        more: tuple[Path, ...] = (),
    ) -> ProcessResult:
        paths = [a for a in arguments if isinstance(a, Path)]
        float32 = 4 * self.parameters if self.parameters <= SMALL_PARAMETERS else 0
        # the runtime copies weights when it packs them for its kernels
        loaded = sum(path.stat().st_size for path in self.subject.model.glob("*.onnx*"))
        job = Job(
            script=script,
            arguments=arguments,
            work=work,
            reads=(*more, *(p for p in paths if not p.is_relative_to(work))),
            shows=Progress("gate", f"measuring {what}"),
            deadline_seconds=DEADLINE_SECONDS,
            memory_limit_bytes=MEMORY_BYTES + float32 + loaded,
        )
        finished = self.toolchain.run(job, self.report)
        # one script announces the whole gate; the search for a cause is no part of it
        if (script == "attribute.py" or not self.estimates) and (
            said := event(finished, "estimate")
        ):
            self.estimates.append(float(said["seconds"]))
        return finished

    def _result(self, finished: ProcessResult) -> dict[str, Any]:
        if finished.code < 0 and finished.code != -signal.SIGKILL:
            raise _BrokenError(f"the runtime crashed over it (signal {-finished.code})")
        if finished.code != 0:
            raise failure(finished, "the model could not be measured", _WITHOUT)
        result = event(finished, "result") or {}
        if result.get("loads") is False:
            raise _BrokenError(result["load_error"])
        return result
