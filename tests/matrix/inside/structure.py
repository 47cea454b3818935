"""Loads a graph that this machine cannot run and says what it is made of; toolchain's interpreter.

python structure.py MODEL.onnx
"""

# mypy: disable-error-code="import-not-found"

import sys
from collections import Counter

import onnx


def main() -> None:
    model = onnx.load(sys.argv[1], load_external_data=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    names = {o.name for o in model.graph.output}
    loose = names - {name for node in model.graph.node for name in node.output}
    if loose:
        sys.exit(f"nobody makes the output {min(loose)}")
    if "logits" not in names or not {"GroupQueryAttention", "MultiHeadAttention"} & kinds.keys():
        sys.exit(f"no attention or no logits: {dict(kinds)}")
    shown = [
        k
        for k in ("GroupQueryAttention", "MultiHeadAttention", "MatMulNBits", "MatMul")
        if k in kinds
    ]
    logits = next(o for o in model.graph.output if o.name == "logits")
    kind = onnx.TensorProto.DataType.Name(logits.type.tensor_type.elem_type).lower()
    print(f"loads: {', '.join(f'{kinds[k]} {k}' for k in shown)}, logits {kind}")


if __name__ == "__main__":
    main()
