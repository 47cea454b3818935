"""The models that figures are measured on, made once and kept in edgekit's cache."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from edgekit.builder.files import publish_cached
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.progress import Progress
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, UsageError

SMOLLM2 = "smollm2"
PHI35, PHI35_LAYERS = "phi35", 32
_MAKE_PHI35 = Path(__file__).parent.parent / "tests" / "models" / "make_phi35.py"


def _silent(_: Progress) -> None:
    """Nobody watches."""


def find_model(name: str) -> Path:
    """The folder of `smollm2` or `phi35` (built once), or of a folder's path.

    `phi35` has the exact shape of Phi-3.5-mini and random weights: its speed and its memory are
    real, its words are not. Making it takes minutes and 11 GB of disk, of which 10 stay.

    Raises:
        UsageError: it is none of these.
    """
    if name == SMOLLM2:
        out = cache_root() / "benchmarks" / "smollm2"
        return build(BuildRequest(model=str(smollm2_gguf()), out=out, gate="small"), _silent).out
    if name == PHI35:
        source, out = phi35_source(PHI35_LAYERS), cache_root() / "benchmarks" / PHI35
        # Nobody tests what random weights say; `plain` is the builder's own int4.
        request = BuildRequest(model=str(source), out=out, gate=None, recipe="plain")
        return build(request, _silent).out
    folder = Path(name)
    if not (folder / "genai_config.json").is_file():
        raise UsageError(
            f"{name!r} is no model",
            "it is neither a known name nor a folder with genai_config.json",
            f"give {SMOLLM2}, {PHI35} or a folder that `edgekit build` made",
        )
    return folder.resolve()


def find_pruned() -> Path:
    """SmolLM2 with a head that computes the last position alone; its weights are the same."""
    out = cache_root() / "benchmarks" / "smollm2-pruned"
    options = ("prune_lm_head=true",)
    # No gate: it says what the whole head does (`tests/system/test_pruned_head.py`).
    request = BuildRequest(model=str(smollm2_gguf()), out=out, gate=None, options=options)
    return build(request, _silent).out


def phi35_source(layers: int) -> Path:
    """A Hugging Face folder in the exact shape of Phi-3.5-mini with random weights.

    Raises:
        EdgekitError: it cannot be made; 32 layers take 7.6 GB.
    """
    out = cache_root() / "benchmarks" / f"phi35-{layers}"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{out.name}-", dir=out.parent))
        python = HostToolchain().ready(_silent).python
        command = [str(python), str(_MAKE_PHI35), str(temporary), "--layers", str(layers)]
        try:
            subprocess.run(command, check=True, capture_output=True)
            publish_cached(temporary, out)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()[-500:]
            raise EdgekitError("the checkpoint could not be made", said) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return out
