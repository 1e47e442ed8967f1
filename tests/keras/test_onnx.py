"""Flows as ONNX files, run by ONNX Runtime. Runs under Keras 3 and tf_keras."""

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest
from served_flows import CONTEXTS, PIXELS, ROWS
from test_families import FAMILIES, IMAGES
from test_families import ROWS as FAMILY_ROWS

import tfp_flows as flows

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
TABLE = DOCS.split("\n## ONNX")[1].split("\n## ")[0]


@pytest.fixture
def runtime():
    pytest.importorskip("tf2onnx")
    return pytest.importorskip("onnxruntime")


def run(runtime, path, **arguments):
    session = runtime.InferenceSession(str(path))
    assert {given.name for given in session.get_inputs()} == set(arguments)
    (values,) = session.run(None, arguments)
    return values


@pytest.mark.slow
def test_functions_of_a_flow(runtime, tmp_path):
    model = flows.FlowModel(flows.real_nvp((3,), 2, (4,), context_shape=2))
    x, given = ROWS.astype(np.float32), {"context": CONTEXTS}
    flows.initialize(model.flow, x, **given)
    z = model.encode(x, **given).numpy()
    for signature, argument, values in (("log_prob", "x", x), ("decode", "z", z)):
        path = tmp_path / "onnx" / f"{signature}.onnx"
        model.export(path, format="onnx", signature=signature)
        expected = getattr(model, signature)(values, **given)
        for n in (0, 1, 16):
            some = {k: v[:n] for k, v in {argument: values, **given}.items()}
            found = run(runtime, path, **some)
            assert found.shape == (n, *expected.shape[1:])
            np.testing.assert_allclose(found, expected[:n], rtol=1e-4, atol=1e-4)
        with pytest.raises(runtime.capi.onnxruntime_pybind11_state.InvalidArgument, match="dim"):
            run(runtime, path, **{argument: values[:, :1], **given})
    assert sorted(os.listdir(tmp_path / "onnx")) == ["decode.onnx", "log_prob.onnx"]


@pytest.mark.slow
def test_pixels(runtime, tmp_path):
    model = flows.FlowModel(flows.Dequantized(flows.nice((16,), 2, (4,)), levels=8))
    x = PIXELS.reshape(16, 16).astype(np.uint8)
    flows.initialize(model.flow, x)
    for signature in ("encode", "decode"):
        path = tmp_path / f"{signature}.onnx"
        model.export(path, format="onnx", signature=signature, pixel_dtype="uint8")
    z = run(runtime, tmp_path / "encode.onnx", x=x)
    np.testing.assert_allclose(z, model.encode(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(run(runtime, tmp_path / "decode.onnx", z=z), x)
    with pytest.raises(ValueError, match=r"log_prob .* cannot be converted.*StatelessRandom"):
        model.export(tmp_path / "log_prob.onnx", format="onnx")
    assert sorted(os.listdir(tmp_path)) == ["decode.onnx", "encode.onnx"]


def test_what_is_refused(tmp_path, monkeypatch):
    model = flows.FlowModel(flows.nice((3,), 2, (4,)))
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        model.export(tmp_path / "served", format="onnx")
    for signature in ("sample", "predict"):
        with pytest.raises(ValueError, match=r"'log_prob', 'encode', 'decode', got.*draw latents"):
            model.export(tmp_path / "flow.onnx", format="onnx", signature=signature)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install .tfp_flows\[onnx\]"):
        model.export(tmp_path / "flow.onnx", format="onnx")
    assert os.listdir(tmp_path) == []


def outcome(model, signature, path):
    """What the table says: `yes`, or the operations that cannot be converted."""
    try:
        model.export(path, format="onnx", signature=signature)  # which compares
    except ValueError as error:
        missing = re.search(r"does not know ([\w, ]+)\.", str(error))
        return f"lacks `{missing.group(1)}`" if missing else "no"
    return "yes"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_table_of_onnx(name, runtime, tmp_path):
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", TABLE, flags=re.MULTILINE))
    flow = FAMILIES[name](None)
    flows.initialize(flow, IMAGES if len(flow.event_shape) == 3 else FAMILY_ROWS)
    model = flows.FlowModel(flow)
    found = [outcome(model, s, tmp_path / "flow.onnx") for s in ("log_prob", "encode", "decode")]
    assert rows[name].split(" | ") == found
