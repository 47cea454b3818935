"""What an offer refuses, the question before it refuses in the same words, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.trust.signed import Metadata, Offered
from tests import attacks
from tests.attacked import ATTACKS, GOOD, NEXT, Bundle, Device, make_device


def contents(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every path below ROOT: its mode, and its bytes or target; nothing is left out."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else b"",
        )
        for path in sorted(root.rglob("*"))
    }


class Twice(Device):
    """A device whose every offer is asked for first."""

    asked = 0

    def offer(self, of: Bundle, metadata: Metadata | None) -> tuple[int, dict[str, Any]]:
        stdin = msgspec.json.encode(Offered(of.manifest.decode(), metadata))
        before = contents(self.root.path)
        code, answer = self.verb("stage", of.digest, "--offer", "--dry-run", stdin=stdin)
        assert contents(self.root.path) == before
        done, told = super().offer(of, metadata)
        assert code == done, answer
        if done:
            assert answer == told
        else:
            assert answer["missing"] == told["missing"]
            assert answer["warnings"] == told["warnings"]
        self.asked += 1
        return done, told


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_device(tmp_path_factory.mktemp("attacks") / "root").root.path


def test_every_attack_on_an_offer_is_refused_by_the_question_too(
    template: Path, tmp_path: Path
) -> None:
    asked = []
    attacks.all_attacks()
    of_offers = [name for name, each in ATTACKS.items() if each.__module__ == "tests.attacks"]
    for number, name in enumerate(of_offers):  # the others are on files and layers
        folder = tmp_path / str(number)
        folder.mkdir()
        with attacks.attacked(template, folder) as device:
            twice = Twice(device.root, device.maker, False, device.before)
            code, _ = ATTACKS[name](twice, folder)
            assert code == 4, name
            asked += [name] * twice.asked
    assert len(asked) >= 15, asked
    assert {"unsigned", "older counter", "expired targets", "foreign hardware"} <= set(asked)


def test_what_is_signed_is_answered_as_the_offer_is(template: Path, tmp_path: Path) -> None:
    with attacks.attacked(template, tmp_path) as device:
        twice = Twice(device.root, device.maker, False, device.before)
        twice.push(NEXT, GOOD + 1)
        assert twice.asked == 1
