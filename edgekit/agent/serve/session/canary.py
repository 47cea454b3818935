"""What the quality canary asks of the model in idle time, as a pure machine.

A release that has passed its trial is first compared with the release before it, sample by sample;
then it makes its own baseline, for the release after it. Where the device keeps ended prompts it
walks each of them, too. One walk is under way at a time. Nothing of it is kept if it is broken off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf

import msgspec

from edgekit.agent.serve.pipe import Cancel, EndedPrompt, Walk, WalkBroken, WalkEnded
from edgekit.core.quality import (
    Baseline,
    Lineage,
    QualityReport,
    Sample,
    Walked,
    loops,
    score_of,
    unlike,
)

IDLE_SECONDS = 5.0  # a device is idle once it has had nothing to do for so long
BASELINE_SECONDS = 30.0  # the same, where nobody waits for what is walked
KEPT_SECONDS = 240.0  # then, too, a conversation keeps its slot for so long after its last prompt
ANSWER_TOKENS = 64  # of a greedy answer, at most
SAMPLE_ANSWER_TOKENS = 64  # of an ended prompt's answer are walked
SAMPLE_TOKENS = 512  # of an ended prompt; a longer one is left out
MAX_DEATHS = 2  # of workers in walks; then this release walks nothing more
MAX_WAITING = 16  # ended prompts that wait to be walked; the oldest goes
NO_RELEASE = "nothing to compare with: no other release ran here before"
NO_BASELINE = "not comparable: the release before has left no scores on this device"
NO_PROMPTS = "not comparable: the release before has no golden prompts, or could not walk them"
NOT_WALKED = "not comparable: no prompt could be walked under this release"
CRASHED = f"not comparable: the model process ended {MAX_DEATHS} times while it compared"


@dataclass(frozen=True, slots=True)
class Known:
    """What the device knows when an agent starts.

    Attributes:
        release: the agent's own, as a digest.
        lineage: of it.
        prompts: its golden prompts, as tokens.
        report: what was said of its quality before; None: nothing yet.
        has_baseline: whether its own baseline is there.
        against: the release before it; empty: none.
        baseline: what that one said; None: it left nothing.
        samples: ended prompts that it walked.
        keeps: how many ended prompts this device keeps; 0: none.
    """

    release: str
    lineage: Lineage
    prompts: list[list[int]] = field(default_factory=list)
    report: QualityReport | None = None
    has_baseline: bool = False
    against: str = ""
    baseline: Baseline | None = None
    samples: list[Sample] = field(default_factory=list)
    keeps: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """Write the report, and forget the ended prompts of the release before."""

    report: QualityReport


@dataclass(frozen=True, slots=True)
class KeepBaseline:
    """Write this release's baseline."""

    baseline: Baseline


@dataclass(frozen=True, slots=True)
class KeepSample:
    """Keep a walked prompt in memory.

    Attributes:
        at: when it ended, in seconds since the device's boot.
    """

    sample: Sample
    at: float


CanaryEffect = Judged | KeepBaseline | KeepSample


class _Kind(Enum):
    COMPARE = 1
    OWN = 2
    ENDED = 3


@dataclass(frozen=True, slots=True)
class _Job:
    kind: _Kind
    walk: Walk
    at: float = 0.0  # when an ended prompt ended, in seconds since the device's boot


@dataclass(slots=True)
class Canary:
    """The walks that are to be done, and what came out of them.

    Args:
        known: what the device knows.
    """

    known: Known
    _jobs: deque[_Job] = field(default_factory=deque)
    _under_way: bool = False
    _withdrawn: bool = False  # the walk under way is to end
    _idle_since: float = inf
    _samples: list[Sample] = field(default_factory=list)  # compared
    _walked: list[Walked] = field(default_factory=list)
    _own: list[Sample] = field(default_factory=list)
    _begun: bool = False
    _number: int = 0
    _deaths: int = 0  # of workers in a walk
    _over: bool = False  # too many of them: this release walks nothing more

    def __post_init__(self) -> None:
        self._over = self.known.report is not None and self.known.report.why == CRASHED
        self._begun = self._over

    def tick(
        self, *, idle: bool, judged: bool, now: float
    ) -> tuple[Walk | Cancel | None, list[CanaryEffect]]:
        """Say what to walk now, if anything, or that the walk under way is to end.

        Args:
            idle: the model is loaded, and no prompt waits or runs.
            judged: the trial of this release is over.
            now: monotonic seconds.
        """
        self._idle_since = min(self._idle_since, now) if idle and judged else inf
        if self._under_way:
            if self._idle_since < inf or self._withdrawn:
                return None, []
            self._withdrawn = True
            return Cancel(self._jobs[0].walk.key), []
        idle_seconds = now - self._idle_since
        if idle_seconds < IDLE_SECONDS:
            return None, []
        effects: list[CanaryEffect] = []
        if not self._begun:
            self._begun = True
            effects = self._begin()
        if not self._jobs:
            return None, effects
        patient = self._jobs[0].kind is _Kind.OWN and not self._walked
        if patient and idle_seconds < BASELINE_SECONDS:
            return None, effects
        self._under_way, self._withdrawn = True, False
        return self._jobs[0].walk, effects

    def lost(self) -> list[CanaryEffect]:
        """The worker has ended: its walk begins again, or nothing is walked after two deaths.

        What is said then is on the disk, so the next agent does not begin again either.
        """
        self._idle_since = inf
        if not self._under_way:
            return []
        self._under_way = False
        self._deaths += 1
        if self._deaths < MAX_DEATHS:
            return []
        kinds = {job.kind for job in self._jobs}
        self._jobs.clear()
        self._over = True
        effects: list[CanaryEffect] = []
        if _Kind.COMPARE in kinds:
            known = self.known
            effects.append(Judged(QualityReport(known.release, known.against, None, CRASHED)))
        if _Kind.OWN in kinds:
            effects.append(self._own_baseline())
        return effects

    def broken(self, message: WalkBroken) -> None:
        """The worker had something else to do: the walk begins again in the next idle time."""
        if self._under_way and message.key == self._jobs[0].walk.key:
            self._under_way, self._idle_since = False, inf

    def prompt_ended(self, prompt: EndedPrompt, at: float) -> None:
        """Walk an ended prompt later, where this device keeps such.

        Args:
            prompt: its tokens.
            at: now, in seconds since the device's boot.
        """
        tokens = prompt.tokens[: prompt.start + SAMPLE_ANSWER_TOKENS]
        if self._over or not self.known.keeps:
            return
        if not prompt.start < len(tokens) <= SAMPLE_TOKENS:
            return
        waiting = self._waiting()
        if len(waiting) >= MAX_WAITING:
            self._jobs.remove(waiting[0])
        self._add(_Kind.ENDED, tokens, prompt.start, at=at)

    def forget(self, before: float) -> None:
        """Forget ended prompts that wait since before a time, in seconds since the boot."""
        for job in self._waiting():
            if job.at < before:
                self._jobs.remove(job)

    def _waiting(self) -> list[_Job]:
        """Ended prompts that wait, the oldest first; the one that is walked does not."""
        jobs = list(self._jobs)[1 if self._under_way else 0 :]
        return [job for job in jobs if job.kind is _Kind.ENDED]

    def walked(self, ended: WalkEnded) -> list[CanaryEffect]:
        """Take the result of a walk."""
        if not self._under_way or ended.key != self._jobs[0].walk.key:
            return []
        self._under_way = False
        job = self._jobs.popleft()
        kind, walk = job.kind, job.walk
        fitted = bool(ended.answer)
        match kind:
            case _Kind.COMPARE if fitted:
                self._walked.append(compared_with(ended))
            case _Kind.COMPARE:
                del self._samples[len(self._walked)]
            case _Kind.OWN if fitted:
                self._own.append(sample_of(walk, ended))
            case _Kind.ENDED if fitted:
                return [KeepSample(ended_sample_of(walk, ended), job.at)]
        if kind is _Kind.ENDED or any(job.kind is kind for job in self._jobs):
            return []
        return [self._compared() if kind is _Kind.COMPARE else self._own_baseline()]

    def _begin(self) -> list[CanaryEffect]:
        """List all walks; say at once what needs none."""
        known, effects, first = self.known, list[CanaryEffect](), list(self._jobs)
        self._jobs.clear()
        if known.report is None:
            why = self._why_not()
            if why:
                effects.append(Judged(QualityReport(known.release, known.against, None, why)))
            else:
                assert known.baseline is not None
                self._samples = [*known.baseline.samples, *known.samples]
                for sample in self._samples:
                    wanted = [top.tokens for top in sample.tops]
                    self._add(_Kind.COMPARE, sample.tokens, sample.start, wanted)
        if not known.has_baseline:
            for prompt in known.prompts:
                self._add(_Kind.OWN, prompt, len(prompt))
            if not known.prompts:
                effects.append(self._own_baseline())
        self._jobs += first
        return effects

    def _why_not(self) -> str:
        known = self.known
        if not known.against:
            return NO_RELEASE
        if known.baseline is None:
            return NO_BASELINE
        if why := unlike(known.baseline.lineage, known.lineage):
            return why
        return "" if known.baseline.samples or known.samples else NO_PROMPTS

    def _compared(self) -> Judged:
        known, score = self.known, score_of(self._samples, self._walked)
        why = "" if score is not None else NOT_WALKED
        before = known.baseline.lineage.made_from if known.baseline else ""
        rebuilt = bool(before) and before == known.lineage.made_from
        return Judged(QualityReport(known.release, known.against, score, why, rebuilt))

    def _own_baseline(self) -> KeepBaseline:
        return KeepBaseline(Baseline(self.known.lineage, self._own))

    def _add(
        self,
        kind: _Kind,
        tokens: Sequence[int],
        start: int,
        wanted: list[list[int]] | None = None,
        at: float = 0.0,
    ) -> None:
        self._number += 1
        key = f"walk-{self._number}"
        rest_seconds = 0.0 if kind is _Kind.COMPARE else KEPT_SECONDS
        walk = Walk(key, list(tokens), start, wanted or [], ANSWER_TOKENS, rest_seconds)
        self._jobs.append(_Job(kind, walk, at))


def sample_of(walk: Walk, ended: WalkEnded) -> Sample:
    """The sample that a release makes of its own answer to a prompt of its bundle."""
    return Sample(
        [*walk.tokens, *ended.answer],
        walk.start,
        ended.answer_tops,
        len(ended.answer),
        loops(ended.answer),
    )


def ended_sample_of(walk: Walk, ended: WalkEnded) -> Sample:
    """The sample of an ended prompt: its own answer is walked, and not another one."""
    own = sample_of(msgspec.structs.replace(walk, tokens=[]), ended)
    return msgspec.structs.replace(own, tokens=walk.tokens, tops=ended.tops, ended=True)


def compared_with(ended: WalkEnded) -> Walked:
    """What the new release says of a sample of the old one."""
    logprobs = [top.logprobs for top in ended.tops]
    return Walked(ended.best, logprobs, len(ended.answer), loops(ended.answer))
