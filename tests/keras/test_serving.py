"""The SavedModel as those who serve it meet it. Runs under Keras 3 and tf_keras."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import tfp_flows as flows
from tfp_flows.distributions import Flow
from tfp_flows.saving import latent_sampler

tfb, tfd = tfp.bijectors, tfp.distributions
RANDOM = np.random.RandomState(0)
ROWS = RANDOM.normal(size=(16, 3))
PIXELS = RANDOM.binomial(7, 0.3, size=(16, 4, 4, 1))
CONTEXTS = RANDOM.normal(size=(16, 2)).astype(np.float32)

FLOWS = {
    "plain": lambda: flows.real_nvp((3,), 2, (4,)),
    "context": lambda: flows.nice((3,), 2, (4,), context_shape=(2,)),
    "float64": lambda: flows.nice((3,), 2, (4,), dtype=tf.float64),
    "pixels": lambda: flows.Dequantized(flows.glow((4, 4, 1), 1, 1, 4), levels=8),
}
EVERY = pytest.mark.parametrize("name", FLOWS)


class Served:
    """A SavedModel of a flow, and calls of its signatures on `n` examples."""

    def __init__(self, name, folder):
        flow = FLOWS[name]()
        self.x = tf.cast(PIXELS if name == "pixels" else ROWS, flow.dtype)
        self.context = {"context": CONTEXTS} if name == "context" else {}
        flows.initialize(flow, self.x, **self.context)
        self.model, self.folder = flows.FlowModel(flow, name=name), folder
        self.model.export(folder)
        self.signatures = tf.saved_model.load(str(folder)).signatures

    def __call__(self, signature, count, **arguments):
        given = {k: tf.constant(v[:count]) for k, v in self.context.items()}
        (output,) = self.signatures[signature](**arguments, **given).values()
        return output.numpy()

    def sample(self, n, seed=5, temperature=1.0):
        seed, temperature = tf.constant([seed, 0]), tf.constant(temperature)
        return self("sample", n, n=tf.constant(n), seed=seed, temperature=temperature)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Served(name, tmp_path_factory.mktemp("served") / "1")
        return made[name]

    return get


@EVERY
def test_samples_depend_on_the_seed_alone(name, served):
    it = served(name)
    many = it.sample(16)
    np.testing.assert_array_equal(it.sample(16), many)
    for n in (0, 1, 2, 7, 15):  # the first n do not know how many come after them
        some = it.sample(n)
        assert some.shape == (n, *many.shape[1:]) and some.dtype == many.dtype
        np.testing.assert_allclose(some, many[:n], rtol=1e-5, atol=1e-5)
    assert not np.allclose(it.sample(16, seed=6), many)
    assert len(np.unique(many.reshape(16, -1), axis=0)) > 8
    given = it.context
    np.testing.assert_allclose(it.model.sample(16, seed=5, **given), many, rtol=1e-5, atol=1e-5)


@EVERY
def test_every_batch_size(name, served):
    it = served(name)
    z = it("encode", 16, x=it.x)
    names = ["encode", "decode"] + ([] if name == "pixels" else ["log_prob", "serving_default"])
    for signature in names:
        values = {"z": z} if signature == "decode" else {"x": it.x}
        whole = it(signature, 16, **{k: tf.constant(v) for k, v in values.items()})
        for n in (0, 1, 5):
            some = it(signature, n, **{k: tf.constant(v[:n]) for k, v in values.items()})
            assert some.dtype == whole.dtype
            np.testing.assert_allclose(some, whole[:n], rtol=1e-4, atol=1e-4)


PREFIX_BASES = {
    "Normal": tfd.Normal(0.0, 1.0),
    "StudentT": tfd.StudentT(3.0, 0.0, 1.0),
    "Gamma": tfd.Gamma(3.0, 1.0),
    "Uniform": tfd.Uniform(0.0, 1.0),
    "TruncatedNormal": tfd.TruncatedNormal(0.0, 1.0, -1.0, 1.0),
}


@pytest.mark.parametrize("name", PREFIX_BASES)
def test_the_first_latents_of_other_bases(name):
    draw = latent_sampler(Flow(tfd.Sample(PREFIX_BASES[name], 3), tfb.Identity()))
    given = [tf.constant(1.0)] * (len(draw.input_signature) - 2)
    many = draw(16, [1, 0], *given)
    np.testing.assert_allclose(draw(5, [1, 0], *given), many[:5], rtol=1e-5, atol=1e-5)


def cli(*arguments):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(served, tmp_path):
    it = served("plain")
    serve = ["--dir", str(it.folder), "--tag_set", "serve"]
    shown = cli("show", "--dir", str(it.folder), "--all")
    parts = re.split(r"signature_def\['(\w+)'\]:", shown)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(it.signatures) <= set(found)
    assert re.search(r"inputs\['x'\].*?DT_FLOAT\s+shape: \(-1, 3\)", found["log_prob"], re.DOTALL)
    assert re.search(r"outputs\['log_prob'\].*?shape: \(-1\)", found["log_prob"], re.DOTALL)
    for name in ("n", "seed", "temperature"):
        assert f"inputs['{name}']" in found["sample"]
    inputs = "n=4;seed=[5,0];temperature=1.0"
    out = ["--overwrite", "--outdir", str(tmp_path)]
    cli("run", *serve, "--signature_def", "sample", "--input_exprs", inputs, *out)
    np.testing.assert_allclose(np.load(tmp_path / "sample.npy"), it.sample(4), rtol=1e-5, atol=1e-6)


def prediction_log_class():
    """The message as TensorFlow Serving's `.proto` files define it, built here at run time."""
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="serving", syntax="proto3")
    file.dependency.append("tensorflow/core/framework/tensor.proto")
    layout = {
        "ModelSpec": [("name", 1, None), ("signature_name", 3, None)],
        "Inputs": [("key", 1, None), ("value", 2, ".tensorflow.TensorProto")],
        "PredictRequest": [
            ("model_spec", 1, ".serving.ModelSpec"),
            ("inputs", 2, ".serving.Inputs"),
        ],
        "PredictLog": [("request", 1, ".serving.PredictRequest")],
        "PredictionLog": [("predict_log", 6, ".serving.PredictLog")],
    }
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            repeated = field == "inputs"  # a map is a list of entries on the wire
            message.field.add(
                name=field,
                number=number,
                label=3 if repeated else 1,
                type=11 if kind else 9,
                type_name=kind,
            )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("serving.PredictionLog"))


@pytest.fixture(scope="module")
def prediction_log():
    return prediction_log_class()


@EVERY
def test_warm_up_requests_run(name, served, prediction_log):
    it = served(name)
    path = it.folder / "assets.extra" / "tf_serving_warmup_requests"
    warmed = []
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == it.model.flow.name
        signature = it.signatures[request.model_spec.signature_name]
        inputs = {entry.key: tf.constant(tf.make_ndarray(entry.value)) for entry in request.inputs}
        expected = signature.structured_input_signature[1]
        assert set(inputs) == set(expected)
        for key, value in inputs.items():
            assert expected[key].is_compatible_with(value)
        (output,) = signature(**inputs).values()
        assert output.shape[0] == 3 and np.isfinite(output).all()
        warmed.append(request.model_spec.signature_name)
    assert sorted(warmed) == sorted(it.signatures)
