"""`embedding.onnx`: what the text part is fed, rows of the embedding and rows of pictures.

Inputs: `input_ids` i64 [batch, sequence], where an id below 0 is a row of a picture;
`image_features` f32 [n, hidden], where n is the number of those, and may be 0.
Output: `inputs_embeds` f32 [batch, sequence, hidden]. Another number of rows is an error of the
runtime, never a wrong result.
"""

from onnx import TensorProto, helper
from vision.tensors import Tensors
from vision.writing import GraphFile

# The table keeps the type of the checkpoint, which loses nothing: a BF16 is a float32, too.
_KINDS = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}


def write_embedding(weights: Tensors, graph: GraphFile) -> None:
    """Write the graph and its table.

    Args:
        graph: the file `embedding.onnx`.
    """
    at = weights.embedding
    kind = _KINDS.get(at.kind, TensorProto.DOUBLE)
    table = graph.stream("embed_tokens.weight", kind, at.shape, weights.embedding_parts())
    pictures = graph.node("Less", "input_ids", graph.number(0))
    ids = graph.node("Where", pictures, graph.number(0), "input_ids")
    rows = graph.node("Gather", table, ids)
    if kind != TensorProto.FLOAT:
        rows = graph.node("Cast", rows, to=TensorProto.FLOAT)
    places = graph.node("Transpose", graph.node("NonZero", pictures), perm=[1, 0])
    graph.node("ScatterND", rows, places, "image_features", out="inputs_embeds")
    info = helper.make_tensor_value_info
    hidden, text = at.shape[1], ["batch_size", "sequence_length"]
    graph.save(
        [
            info("input_ids", TensorProto.INT64, text),
            info("image_features", TensorProto.FLOAT, ["tokens", hidden]),
        ],
        [info("inputs_embeds", TensorProto.FLOAT, [*text, hidden])],
    )
