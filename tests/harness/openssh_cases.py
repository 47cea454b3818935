"""All configurations in which OpenSSH and edgekit have to agree."""

from __future__ import annotations

from tests.harness.openssh_road_cases import LOGINS, PLACES, ROADS
from tests.harness.openssh_trust_cases import CERTIFICATES, FILES, KNOWN_HOSTS, STRICTNESS

CASES = [*KNOWN_HOSTS, *FILES, *STRICTNESS, *CERTIFICATES, *PLACES, *ROADS, *LOGINS]
