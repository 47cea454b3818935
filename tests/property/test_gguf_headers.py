"""Any GGUF header is read or refused; it never ends in a traceback."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgekit.builder.support.gguf.config import config_of
from edgekit.builder.support.gguf.header import parse_header
from edgekit.builder.support.gguf.tokens import tokenizer_of
from edgekit.builder.support.modelconfig import check_config
from edgekit.errors import UsageError
from tests.models.gguf_cases import CASES
from tests.models.gguf_file import gguf_header
from tests.unit.test_gguf_header import LLAMA, TOKENIZER

KEYS = st.sampled_from(
    sorted(
        {f"{case['kind']}.{key}" for case in CASES.values() for key in case["header"]} | {*LLAMA}
    )
)
ANY = st.one_of(
    st.integers(-1, 2**31),
    st.floats(width=32),
    st.text(max_size=5),
    st.booleans(),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
)


@given(st.sampled_from(sorted(CASES)), st.dictionaries(KEYS, ANY, max_size=4))
def test_any_header_is_read_or_refused(name: str, change: dict[str, Any]) -> None:
    kind = CASES[name]["kind"]
    said = {f"{kind}.{key}": value for key, value in CASES[name]["header"].items() if value}
    values = said | {"general.architecture": kind} | TOKENIZER | change
    data = gguf_header(values, {"token_embd.weight": (4, 64)}) + bytes(1024)
    try:
        header = parse_header(BytesIO(data), "m.gguf")
        tokenizer_of(header)
        made = config_of(header)
        check_config(made)
    except UsageError:
        return
    assert made["vocab_size"] == 4
    assert math.isfinite(made["rms_norm_eps"] if "rms_norm_eps" in made else made["norm_eps"])


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        config_of(parse_header(BytesIO(b"GGUF\x03\0\0\0" + data), "m.gguf"))
    except UsageError:
        return
