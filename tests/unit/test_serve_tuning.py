"""Which settings are tried on a device, which one is chosen, and when nothing is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.agent.serve.worker import tune
from edgekit.agent.serve.worker.decoder import RuntimeOptions
from edgekit.agent.serve.worker.tuning import (
    MAX_KEPT,
    SettingSpeed,
    Tuning,
    cpu_limit,
    cpu_name,
    keep,
    next_setting,
)


def sweep(cpus: int, speed: Callable[[RuntimeOptions], float]) -> Tuning:
    """All settings, measured by a formula: decoded tokens per second; prefill is ten times it."""
    tried: list[SettingSpeed] = []
    while (setting := next_setting(tried, cpus)) is not None:
        rate = speed(setting)
        tried.append(SettingSpeed(setting.threads, bool(setting.spinning), 10 * rate, rate))
        assert len(tried) < 10
    return Tuning("k", cpus, tried)


def order(tuning: Tuning) -> list[tuple[int, bool]]:
    return [(m.threads, m.spinning) for m in tuning.tried]


def test_a_large_model_gets_every_cpu_and_a_small_one_a_single_thread() -> None:
    large = sweep(4, lambda o: o.threads)
    assert large.best.options == RuntimeOptions(4, False)
    assert order(large) == [(4, False), (1, False), (2, False), (3, False), (4, True)]
    small = sweep(2, lambda o: 1 / o.threads)
    assert small.best.options == RuntimeOptions(1, False)
    assert order(small) == [(2, False), (1, False), (2, True)]
    assert order(sweep(1, lambda o: 1)) == [(1, False)]


def test_spinning_is_chosen_only_where_it_is_clearly_faster() -> None:
    assert not sweep(2, lambda o: o.threads + 0.05 * bool(o.spinning)).best.spinning
    assert sweep(2, lambda o: o.threads + 0.5 * bool(o.spinning)).best.options == RuntimeOptions(
        2, True
    )


def test_a_cpu_is_left_to_the_rest_unless_the_last_one_is_clearly_worth_it() -> None:
    assert sweep(2, lambda o: 1 + 0.05 * o.threads).best.options == RuntimeOptions(1, False)
    assert sweep(2, lambda o: 1 + 0.5 * o.threads).best.options == RuntimeOptions(2, False)


def test_prefill_and_decode_are_weighed_by_a_typical_prompt() -> None:
    prefills_well = SettingSpeed(2, False, 500.0, 100.0)
    decodes_well = SettingSpeed(1, False, 300.0, 200.0)
    assert Tuning("k", 4, [prefills_well, decodes_well]).best is decodes_well
    hardly = SettingSpeed(1, False, 100.0, 105.0)
    assert Tuning("k", 4, [prefills_well, hardly]).best is prefills_well


def test_results_of_other_releases_are_kept_up_to_a_bound() -> None:
    one = SettingSpeed(1, False, 1.0, 1.0)
    kept: list[Tuning] = []
    for number in range(MAX_KEPT + 3):
        kept = keep(kept, Tuning(f"k{number}", 1, [one]))
    kept = keep(kept, Tuning("k5", 1, [one, one]))
    assert len(kept) == MAX_KEPT
    assert kept[-1] == Tuning("k5", 1, [one, one])
    assert [t.key for t in kept].count("k5") == 1


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_quota_of_the_control_group_counts(cpu_max: str, cpus: int) -> None:
    assert cpu_limit(4, cpu_max) == cpus


def test_a_cpu_is_known_by_its_name_or_its_parts() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: AMD EPYC\n", "x86_64") == "AMD EPYC"
    pi = "CPU part\t: 0xd0b\nCPU part\t: 0xd0b\n"
    assert cpu_name(pi, "aarch64") == "aarch64 0xd0b"


class Measurements:
    """Stands in for the child process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[RuntimeOptions] = []
        self.speed: float | None = 1.0
        monkeypatch.setattr(tune, "_measure_apart", self.measure)
        monkeypatch.setattr(tune, "cpus", lambda: 2)

    def measure(self, _model: Path, options: RuntimeOptions, seconds: float) -> SettingSpeed | None:
        self.asked.append(options)
        if self.speed is None or seconds <= 0:
            return None
        return SettingSpeed(
            options.threads, bool(options.spinning), 10.0, self.speed * options.threads
        )


def test_a_result_is_used_again_for_the_same_release_and_measured_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children, file = Measurements(monkeypatch), tmp_path / "tuning.json"
    assert tune.tuned(tmp_path, "sha256:a", file, 9.0) == (RuntimeOptions(2, False), True)
    assert len(children.asked) == 3
    assert tune.tuned(tmp_path, "sha256:a", file, 9.0) == (RuntimeOptions(2, False), True)
    assert len(children.asked) == 3
    tune.tuned(tmp_path, "sha256:b", file, 9.0)
    assert len(children.asked) == 6
    kept = msgspec.json.decode(file.read_bytes(), type=list[Tuning])
    assert [t.key.split()[0] for t in kept] == ["sha256:a", "sha256:b"]
    file.write_text("{damaged")
    assert tune.tuned(tmp_path, "sha256:a", file, 9.0) == (RuntimeOptions(2, False), True)


def test_without_a_measurement_all_cpus_are_used_and_the_next_start_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children, file = Measurements(monkeypatch), tmp_path / "tuning.json"
    children.speed = None
    assert tune.tuned(tmp_path, "sha256:a", file, 9.0) == (RuntimeOptions(2, False), False)
    assert not file.exists()
    children.speed = 1.0
    assert tune.tuned(tmp_path, "sha256:a", file, 9.0)[1]


def test_a_result_that_cannot_be_kept_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children, file = Measurements(monkeypatch), tmp_path / "no-such-folder" / "tuning.json"
    assert tune.tuned(tmp_path, "sha256:a", file, 9.0) == (RuntimeOptions(2, False), True)
    assert len(children.asked) == 3


def test_a_measurement_that_hangs_or_dies_ends_with_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    for script in ("exec sleep 60", "kill -9 $$", "echo nonsense", "exit 0"):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert tune._measure_apart(tmp_path, RuntimeOptions(1, False), 0.5) is None
    assert tune._measure_apart(tmp_path, RuntimeOptions(1, False), 0.0) is None


def test_the_real_model_is_measured(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Path(edgekit.__file__).parents[1], Path(msgspec.__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, places)))  # as a release's trees are
    measured = tune._measure_apart(smollm2, RuntimeOptions(1, False), 60.0)
    assert measured is not None
    assert measured.threads == 1
    assert measured.prefill_per_s > measured.decode_per_s > 1
