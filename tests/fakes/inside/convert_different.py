"""A fake of `builder/inside/convert.py`: one layer, built by both routes, comes out unequal."""

import sys
from pathlib import Path

arguments = sys.argv[1:]
out = Path(arguments[arguments.index("-o") + 1])
out.mkdir()
(out / "model.onnx").write_text("the same", encoding="utf-8")
(out / "model.onnx.data").write_text(arguments[arguments.index("--path") + 1], encoding="utf-8")
(out / "genai_config.json").write_text("{}", encoding="utf-8")
