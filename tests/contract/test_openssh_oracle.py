"""OpenSSH is the oracle: the same files, and the same destination, keys and verdict."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.fleet.ssh.hostkeys import matches, read_known_hosts
from tests import tools
from tests.harness.openssh_case import Case
from tests.harness.openssh_cases import CASES
from tests.harness.openssh_oracle import compare
from tests.harness.openssh_world import World, hashed, world

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("servers")) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_openssh_and_edgekit_agree(case: Case, servers: World, tmp_path: Path) -> None:
    found = compare(case, servers, tmp_path / "case")
    assert found.result == ("refused" if case.refused else "agree"), (
        f"{found.openssh.seen()}\n{found.openssh.said}\n{found.edgekit.seen()}\n{found.edgekit.said}"
    )


NAMES = ("a.example", "[a.example]:22", "[a.example]:2222", "10.0.0.1", "[::1]:22", "::1", "A-b_c")


def some_names(random_: random.Random) -> str:
    """A field of names as known_hosts may have it, odd ones included."""
    alphabet = ["a", ".example", "*", "?", "[", "]", ":22", "10.0.0.1", "::1", "!", "b_c", "A", "|"]

    def one() -> str:
        if random_.random() < 0.5:
            name = random_.choice(NAMES)
            at = random_.randrange(len(name))
            return random_.choice([name, name.upper(), f"!{name}", f"{name[:at]}*", f"?{name[1:]}"])
        return "".join(random_.choice(alphabet) for _ in range(random_.randint(1, 4)))

    if random_.random() < 0.1:
        return hashed(random_.choice(NAMES))
    return ",".join(one() for _ in range(random_.randint(1, 3)))


def test_names_match_where_ssh_keygen_finds_them(tmp_path: Path) -> None:
    """1,500 random fields of names in one file, and 7 names to find there."""
    random_ = random.Random(15)
    subprocess.run(
        [tools.find("ssh-keygen"), "-qt", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True
    )
    key = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    fields = [some_names(random_) for _ in range(1500)]
    fields = [field for field in fields if not field.startswith("|") or field.count("|") == 3]
    known = tmp_path / "known_hosts"
    known.write_text("".join(f"{field} {key}\n" for field in fields))
    for name in NAMES:
        done = subprocess.run(
            [tools.find("ssh-keygen"), "-F", name, "-f", known],
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = {int(n) for n in re.findall(r"found: line (\d+)", done.stdout)}
        ours = {number for number, field in enumerate(fields, 1) if matches(name, field)}
        assert theirs, name
        assert ours == theirs, [fields[number - 1] for number in sorted(ours ^ theirs)]
        read = read_known_hosts(known.read_text(), "f", name)
        assert {int(key.where.removeprefix("f:")) for key in read.keys} == theirs
