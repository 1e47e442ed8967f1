"""The SavedModel as it is served. Runs under Keras 3 and tf_keras."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from served_flows import FLOWS

from tfp_flows.distributions import Flow
from tfp_flows.model.sampling import latent_sampler

tfb, tfd = tfp.bijectors, tfp.distributions
EVERY = pytest.mark.parametrize("name", FLOWS)
WITH_LATENTS = pytest.mark.parametrize("name", [n for n in FLOWS if n != "no-bijector"])


@WITH_LATENTS
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


@WITH_LATENTS
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
