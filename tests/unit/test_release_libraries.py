"""A device whose CPU or system cannot run a runtime refuses it by name before anything is switched.

Measured once with the real runtime under QEMU: with `-cpu qemu64` numpy ends with SIGILL, from
`-cpu Nehalem` (x86-64-v2) on every package can be imported.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.agent.release.refusal import on_record
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging import libraries
from edgekit.agent.release.staging.libraries import UnfitError, compiled_packages
from edgekit.agent.release.staging.stage import publish_release
from edgekit.agent.release.state import Releases
from edgekit.bundle.layers import WHEEL_ISA, WHEEL_TAGS
from edgekit.bundle.tar import compress, plain_tar
from edgekit.core.digest import Digest
from edgekit.core.manifest import ISA
from edgekit.errors import EdgekitError
from edgekit.fleet.facts import DeviceFacts, parse_facts
from edgekit.fleet.plan import check_isa
from tests.harness.held import activated, bundle, tree, weights_of
from tests.trusted import vouched

ILLEGAL = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
FAULTS = {
    ILLEGAL: ("SIGILL: the CPU has no such instruction", "lacks avx9000"),
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": ("it ended with SIGSEGV",),
    "import ctypes; ctypes.CDLL('libgone.so.1')": ("libgone.so.1: cannot open shared object",),
    "raise ImportError('/lib/libc.so.6: version `GLIBC_2.99` not found')": ("GLIBC_2.99",),
    "raise RuntimeError('NumPy was built with baseline optimizations: (X86_V2)')": ("X86_V2",),
    "raise ImportError('\\n\\nIMPORTANT: many\\nlines\\nlibz.so.1: no such file')": ("libz.so.1",),
    "import json2": ("No module named 'json2'",),
    "import os; os.write(2, b'\\xff\\xfe'); os._exit(3)": ("",),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    monkeypatch.setattr(os, "sync", lambda: None)
    root = Root(tmp_path / "root")
    root.create()
    return root


def runtime(**packages: str) -> bytes:
    """A runtime layer with compiled packages whose import runs this code."""
    files: list[tuple[str, bytes | Path]] = []
    for name, code in packages.items():
        files += [(f"{name}/__init__.py", code.encode()), (f"{name}/core.so", b"\x7fELF")]
    files += [("plain/__init__.py", b"raise SystemExit('it has no compiled code')")]
    return b"".join(compress(plain_tar(files)))


@pytest.mark.parametrize("code", FAULTS)
def test_a_runtime_that_cannot_be_imported_here_is_refused_by_name_and_nothing_changes(
    code: str, root: Root
) -> None:
    current = activated(root, "1")
    layer = runtime(aaa="fine = 1", numpy=code, zzz="fine = 2")
    offered, blobs = bundle("2", weights_of("2"), tree(own="2"), layer, **{ISA: "avx9000"})
    for data in blobs:
        root.store.put(data)
    with (
        pytest.raises(UnfitError) as refused,
        on_record(root, offered.digest, offered=False),
    ):
        publish_release(root, vouched(root, offered))
    assert refused.value.what.endswith("numpy cannot be imported")
    for part in FAULTS[code]:
        assert part in refused.value.why
    assert "\n" not in refused.value.why
    assert root.linked(root.current) == current
    assert not root.release(offered.digest).exists()
    assert not (root.trees / Digest.of(layer).hex).exists()
    assert not list(root.path.rglob("*.tmp"))
    assert Releases(root.path).get(offered.digest) is None
    (refusal,) = Releases(root.path).refusals()
    assert refusal["digest"] == offered.digest
    assert refusal["what"] == refused.value.what


def test_a_runtime_that_can_be_imported_is_tried_once_and_leaves_nothing(
    root: Root, tmp_path: Path
) -> None:
    mark = tmp_path / "imported"
    code = f"open({str(mark)!r}, 'a').write('x')"
    for version in ("1", "2"):
        offered, blobs = bundle(
            version, weights_of(version), tree(own=version), runtime(numpy=code)
        )
        for data in blobs:
            root.store.put(data)
        publish_release(root, vouched(root, offered))
        publish_release(root, vouched(root, offered))
    assert mark.read_text() == "x"
    assert not list((root.path / "run").rglob("*.pyc"))


def test_the_child_imports_from_the_tree_alone_and_must_end_in_time(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/tmp/elsewhere")
    code = (
        "import sys, os; assert not any('site-packages' in p for p in sys.path), sys.path;"
        "assert os.environ['PYTHONPATH'].endswith('.tmp')"
    )
    offered, blobs = bundle("1", weights_of("1"), tree(own="1"), runtime(numpy=code))
    for data in blobs:
        root.store.put(data)
    publish_release(root, vouched(root, offered))
    monkeypatch.setattr(libraries, "IMPORT_SECONDS", 0.5)
    slow = runtime(numpy="import time; time.sleep(60)")
    offered, blobs = bundle("2", weights_of("2"), tree(own="2"), slow)
    for data in blobs:
        root.store.put(data)
    with pytest.raises(UnfitError, match="take too long"):
        publish_release(root, vouched(root, offered))


def test_only_packages_with_compiled_code_are_tried(tmp_path: Path) -> None:
    for name in ("numpy/core/a.so", "numpy/__init__.py", "numpy.libs/b.so", "plain/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert compiled_packages(tmp_path) == ["numpy"]


def facts(flags: str) -> DeviceFacts:
    text = (
        '{"root":"/r","machine":"x86_64","python":"3.11","executable":"/p","glibc":"2.36",'
        f'"ram_bytes":1,"writable":true,"current":null,"bootstrap":"","cpu_flags":"{flags}"}}'
    )
    return parse_facts(text.encode())


def test_a_cpu_without_the_instructions_is_refused_in_the_plan() -> None:
    offered, _ = bundle("1", b"w", tree(own="1"), tree(), **{ISA: WHEEL_ISA["linux/amd64"]})
    layer = offered.manifest.runtimes[0]
    atom = "fpu sse sse2 pni ssse3 cx16"  # x86-64 of 2008
    with pytest.raises(EdgekitError) as refused:
        check_isa(facts(atom), layer)
    assert "popcnt, sse4_1, sse4_2" in refused.value.why
    for fine in (f"{atom} popcnt sse4_1 sse4_2 avx2", ""):
        check_isa(facts(fine), layer)


def test_every_platform_of_the_wheels_says_what_its_code_needs() -> None:
    assert WHEEL_ISA.keys() == WHEEL_TAGS.keys()
    assert all(WHEEL_ISA.values())
