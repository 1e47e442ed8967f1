"""Converts a signature of a SavedModel to an ONNX file; run as a program of its own.

tf2onnx removes functions from TensorFlow's registry that flows with loops still need, so it must
not run in the process that has made the flow.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

_OPSET = 18
_INT64 = 7  # onnx.TensorProto.INT64


def main(folder: str, signature: str, path: str) -> None:
    """Writes `path`, or exits with a message."""
    import onnx  # an optional dependency

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # missing operations are named below
    loaded = tf.saved_model.load(folder)
    try:
        model = converted(loaded.signatures[signature])
    except Exception as error:  # of many kinds
        sys.exit(f"tf2onnx fails with {str(error)[:200]}")
    left = {node.op_type for node in _nodes(model.graph) if not node.domain}
    missing = sorted(op for op in left if not onnx.defs.has(op))
    if missing:
        sys.exit(f"tf2onnx does not know {', '.join(missing)}")
    Path(path).write_bytes(model.SerializeToString())


def converted(signature: Any) -> Any:
    """A signature as an ONNX model, with the names of its arguments and of its one output."""
    import tf2onnx  # an optional dependency

    (name,) = signature.structured_outputs
    arguments = signature.inputs[: len(signature.inputs) - len(signature.captured_inputs)]
    inputs, output = [tensor.name for tensor in arguments], signature.outputs[0].name
    names = {i: i.split(":")[0].removeprefix(f"{name}_") for i in inputs}
    model, _ = tf2onnx.convert.from_graph_def(
        tf2onnx.tf_loader.from_function(signature, inputs, [output]),
        input_names=inputs,
        output_names=[output],
        tensors_to_rename={**names, output: name},
        opset=_OPSET,
        custom_op_handlers={"BroadcastArgs": (_broadcast_args, [])},
    )
    return model


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of branches and loops included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def _broadcast_args(graph: Any, node: Any, name: str, _: list) -> None:
    """tf2onnx lacks this operation: the shape of a sum of zeros of both shapes."""
    shapes, outputs, dtypes = list(node.input), node.output, node.output_dtypes
    graph.remove_node(name)
    zeros = []
    for shape in shapes:
        shape = graph.make_node("Cast", [shape], attr={"to": _INT64}).output[0]
        zeros.append(graph.make_node("ConstantOfShape", [shape]).output[0])
    found = graph.make_node("Shape", graph.make_node("Add", zeros).output).output
    graph.make_node(
        "Cast", found, attr={"to": dtypes[0]}, outputs=outputs, name=name, dtypes=dtypes
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
