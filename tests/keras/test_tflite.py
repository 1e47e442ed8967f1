"""Which flows TensorFlow Lite can run; the table in docs/serving.md is held to it."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_families import FAMILIES, IMAGES, ROWS

import tfp_flows as flows

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
TABLE = DOCS.split("\n## TensorFlow Lite")[1].split("\n## ")[0]


def outcome(folder, signature, argument, values, expected):
    """What the table says: `yes`, or the operations that the built-in ones do not cover."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[signature])
    try:
        content = converter.convert()
    except Exception as error:
        missing = re.search(r"TF Select ops: ([\w, ]+)", str(error)).group(1)
        converter.target_spec.supported_ops.add(tf.lite.OpsSet.SELECT_TF_OPS)
        assert len(converter.convert()) > 1000  # with them it does convert
        return f"needs `{missing.strip()}`"
    run = tf.lite.Interpreter(model_content=content).get_signature_runner(signature)
    for n in (1, 3):
        found = run(**{argument: values[:n]})[signature]
        np.testing.assert_allclose(found, expected[:n], rtol=1e-3, atol=1e-3)
    return "yes"


def outcomes(name, folder):
    flow = FAMILIES[name](None)
    x = IMAGES if len(flow.event_shape) == 3 else ROWS
    flows.initialize(flow, x)
    model = flows.FlowModel(flow)
    model.export(folder)
    z = model.encode(x)
    return [
        outcome(folder, "log_prob", "x", x, model.log_prob(x).numpy()),
        outcome(folder, "decode", "z", z.numpy(), model.decode(z).numpy()),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_table_of_tensorflow_lite(name, tmp_path):
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", TABLE, flags=re.MULTILINE))
    assert rows[name].split(" | ") == outcomes(name, tmp_path / "served")
