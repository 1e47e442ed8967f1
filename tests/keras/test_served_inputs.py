"""What a served signature does with requests that do not fit. Runs under Keras 3 and tf_keras."""

import numpy as np
import pytest
import tensorflow as tf
from served_flows import FLOWS, ROWS

EVERY = pytest.mark.parametrize("name", FLOWS)
INVALID = tf.errors.InvalidArgumentError


def valid_arguments(it, signature, count=4):
    """Arguments of every signature, by name."""
    specs = it.signatures[signature].structured_input_signature[1]
    z = it("encode", count, x=it.x[:count]) if "z" in specs else None
    values = {
        "x": it.x[:count],
        "z": z,
        "n": tf.constant(count),
        "seed": tf.constant([1, 2]),
        "temperature": tf.constant(0.8),
        **{name: tf.constant(values[:count]) for name, values in it.context.items()},
    }
    return {name: tf.convert_to_tensor(values[name]) for name in specs}


@EVERY
def test_shapes_are_checked_in_every_signature(name, served):
    it = served(name)
    for signature, function in it.signatures.items():
        valid = valid_arguments(it, signature)
        (output,) = function(**valid).values()
        assert output.shape[0] == 4
        for argument in {"x", "z", "context"} & set(valid):
            tensor = valid[argument]
            wrong = [tensor[0], tensor[tf.newaxis]]
            if tensor.shape.rank > 1:
                wrong += [tensor[..., :1], tf.concat([tensor, tensor], -1)]
                wrong = [t for t in wrong if t.shape[1:] != tensor.shape[1:]]
            for values in wrong:
                with pytest.raises(INVALID, match=rf"tensor {argument} \[.*expected shape \[\?"):
                    function(**{**valid, argument: values})


@pytest.mark.parametrize("name", ["plain", "no-bijector"])
def test_draws_are_checked(name, served):
    it = served(name)
    rows = {
        "n": tf.ones([2], tf.int32),
        "seed": tf.constant([[1, 2], [3, 4]]),
        "temperature": tf.constant([1.0, 0.5]),
    }
    takes = set(it.signatures["sample"].structured_input_signature[1])
    one = valid_arguments(it, "sample")

    def check_invalid(given, match, **changed):
        given = {k: v for k, v in {**given, **changed}.items() if k in takes}
        with pytest.raises(INVALID, match=match):
            it.signatures["sample"](**given)

    check_invalid(one, "n must be.*-1", n=tf.constant(-1))
    check_invalid(one, "seed must have shape", seed=tf.constant([1, 2, 3]))
    check_invalid(one, "seed must have shape", seed=tf.constant(1))
    check_invalid(one, "seed must have shape", seed=rows["seed"])
    check_invalid(one, "seed must have shape", n=rows["n"])
    check_invalid(one, "n must be", n=tf.constant([[4]]))
    check_invalid(rows, "n must be.*1 for each", n=tf.constant([1, 3]))
    check_invalid(rows, "seed must have shape", n=tf.constant([1]))
    check_invalid(one, "expected to be a int32", seed=tf.constant([1, 2], tf.int64))
    if "temperature" in takes:
        for temperature in (-1.0, -1e-6, np.nan, np.inf):
            message = "temperature must be finite and 0 or more"
            check_invalid(one, message, temperature=tf.constant(temperature, tf.float32))
            check_invalid(rows, message, temperature=tf.constant([1.0, temperature], tf.float32))
        check_invalid(one, "temperature must have the shape of n", temperature=tf.constant([1.0]))


@pytest.mark.parametrize("name", ["context", "labels"])
def test_contexts_are_one_for_each_row_or_one_for_all(name, served):
    it = served(name)
    for signature, function in it.signatures.items():
        valid = valid_arguments(it, signature)
        context = valid["context"]
        one_for_all = function(**{**valid, "context": context[:1]})
        repeated = function(**{**valid, "context": tf.repeat(context[:1], 4, axis=0)})
        tf.nest.map_structure(np.testing.assert_array_equal, one_for_all, repeated)
        for count in (0, 3):
            with pytest.raises(INVALID, match=rf"one context for each row.*{count} 4"):
                function(**{**valid, "context": context[:count]})
        empty = valid_arguments(it, signature, 0)
        (output,) = function(**{**empty, "context": context[:1]}).values()
        assert output.shape[0] == 0
        alone = valid_arguments(it, signature, 1)
        with pytest.raises(INVALID, match="one context for each row"):
            function(**{**alone, "context": context})  # 4 answers for 1 row would be cut to 1


def test_labels_are_checked(served):
    it = served("labels")
    for signature, function in it.signatures.items():
        valid = valid_arguments(it, signature)
        with pytest.raises(INVALID, match=r"labels in 0 \.\.\. 2"):
            function(**{**valid, "context": tf.constant([0, 1, 2, 3])})


def test_pixels_are_checked(served):
    it = served("pixels")
    for signature in ("log_prob", "serving_default", "encode"):
        for wrong in (it.x[:2] - 8, it.x[:2] + 8):
            with pytest.raises(INVALID, match=r"whole pixels in 0 \.\.\. 7"):
                it(signature, 2, x=wrong)


def test_a_bad_row_does_not_change_the_others(served):
    it = served("plain")
    rows = tf.tensor_scatter_nd_update(it.x[:4], [[2, 0]], [np.nan])
    for signature in ("log_prob", "encode"):
        found, expected = it(signature, 4, x=rows), it(signature, 4, x=it.x[:4])
        fine = [0, 1, 3]
        np.testing.assert_allclose(found[fine], expected[fine], rtol=1e-5, atol=1e-5)
        assert np.isnan(found[2]).any()


def test_methods_of_the_loaded_object(served):
    it = served("off-centre")
    x = tf.constant(ROWS, tf.float32)
    np.testing.assert_array_equal(it.loaded.log_prob(x), it("log_prob", 16, x=x))
    np.testing.assert_array_equal(
        it.loaded.sample(tf.constant(4), tf.constant([5, 0]), tf.constant(1.0)), it.sample(4)
    )
    with pytest.raises(TypeError, match=r"shape=\(16, 1\).*shape=\(None, 3\)"):
        it.loaded.log_prob(x[:, :1])


def test_temperature_scales_about_the_mean(served):
    it = served("off-centre")
    mean = it.model.decode(np.full([1, 3], 3.0, np.float32))
    np.testing.assert_allclose(it.sample(4, temperature=0.0), np.tile(mean, [4, 1]), rtol=1e-6)
    np.testing.assert_allclose(it.model.sample(1, seed=5, temperature=0.0), mean, rtol=1e-6)
    z = {t: it("encode", 4, x=tf.constant(it.sample(4, temperature=t))) for t in (1.0, 0.5)}
    np.testing.assert_allclose(z[0.5] - 3.0, 0.5 * (z[1.0] - 3.0), rtol=1e-4, atol=1e-5)
    many = it.model.sample(4, seed=5, temperature=0.5, batch_size=2)
    np.testing.assert_allclose(many, it.sample(4, temperature=0.5), rtol=1e-5, atol=1e-5)
