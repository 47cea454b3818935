"""`device.verify_ms`: what a device computes to believe an offer."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from benchmarks.figure import figure
from benchmarks.rig import Rig
from tests.attacked import NEXT
from tests.metadata_maker import Maker

RELEASES = 200  # in targets.json
ROTATIONS = 4
# As on a device: no cryptography. CPU time of this thread, so of one core.
SCRIPT = """
import sys, time
sys.modules["cryptography"] = None
import msgspec
from edgekit.core.digest import Digest
from edgekit.trust.metadata import KeptTrust, accept
from edgekit.trust.signed import Metadata
from edgekit.trust.verified import verify

manifest, offered, hardware = msgspec.json.decode(
    sys.stdin.buffer.read(), type=tuple[str, Metadata, list[str]]
)
data = manifest.encode()
seen = accept(None, None, offered, time.time())  # imports tuf
kept = KeptTrust("", seen.root, seen.timestamp, seen.snapshot, seen.targets, seen.signed_at)
for _ in range(int(sys.argv[1])):
    began = time.thread_time()
    verify(data, Digest.of(data), accept(kept, None, offered, time.time()), hardware, 0)
    print(1000 * (time.thread_time() - began))
"""


@figure(
    "device.verify_ms",
    what="Verifying the signed metadata of an offer",
    unit="ms",
    against=f"on one core, {RELEASES} releases in targets.json, Ed25519 in Python; the import of "
    "tuf comes on top",
)
def verify_ms(rig: Rig) -> list[float]:
    """Milliseconds of CPU for one later offer to a device that trusts the project."""
    maker = Maker()
    for step in range(ROTATIONS):
        maker.rotate("targets", f"targets {step}")
    maker.sign(NEXT.manifest, RELEASES)
    for counter in range(1, RELEASES):
        maker.sign(b"%d" % counter, counter)
    target = maker.targets[f"releases/{NEXT.digest.hex}"]
    hardware = target.unrecognized_fields["custom"]["edgekit"]["hardware"]
    told = msgspec.json.encode((NEXT.manifest.decode(), maker.made(), hardware))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(rig.rounds)], input=told, capture_output=True, check=True
    )
    return [float(line) for line in done.stdout.split()]
