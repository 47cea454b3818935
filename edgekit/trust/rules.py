"""python-tuf's rules of a client, without the rest of its client.

`tuf.ngclient` imports a fetcher and with it urllib3, which takes longer than a verification does:
0.12 s of CPU in each process that verifies. Its rules need nothing of that. So the package's own
code is left out while the rules are imported. A later `import tuf.ngclient` gets all of it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # as the time of a check: nothing has expired
_PACKAGE = "tuf.ngclient"


def begin(root: bytes) -> TrustedMetadataSet:
    """A set that trusts one root, and asks about no expiry until it is told a time.

    Raises:
        tuf.api.exceptions.RepositoryError: the root is not signed by itself, or cannot be read.
    """
    alone = _PACKAGE not in sys.modules
    if alone and (spec := find_spec(_PACKAGE)) is not None:
        sys.modules[_PACKAGE] = module_from_spec(spec)  # where its modules lie; nothing is run
    try:
        from tuf.ngclient._internal.trusted_metadata_set import (  # noqa: PLC0415  see above
            TrustedMetadataSet,
        )
        from tuf.ngclient.config import EnvelopeType  # noqa: PLC0415  see above
    finally:
        if alone:
            sys.modules.pop(_PACKAGE, None)
    files = TrustedMetadataSet(root, EnvelopeType.METADATA)
    files.reference_time = NEVER
    return files
