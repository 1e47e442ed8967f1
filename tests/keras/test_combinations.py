"""Combinations of features: every pair of choices below occurs in some case of the table."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows.keras_engine import keras

tfb = tfp.bijectors

FAMILIES = {
    "nice": lambda n, layers, **k: flows.nice((n,), layers, (4,), activation="tanh", **k),
    "real_nvp": lambda n, layers, **k: flows.real_nvp((n,), layers, (4,), activation="tanh", **k),
    "neural_spline": lambda n, layers, **k: flows.neural_spline((n,), layers, (4,), 3, **k),
    "flow_plus_plus": lambda n, layers, **k: flows.flow_plus_plus((n,), layers, (4,), 2, **k),
    "maf": lambda n, layers, **k: flows.maf((n,), layers, (6,), order="random", **k),
    "planar": lambda n, layers, **k: flows.planar((n,), layers, **k),
}
CHOICES = {
    "family": list(FAMILIES),
    "features": [3, 4],
    "layers": [2, 3],
    "context": ["none", "vector", "labels", "encoder"],
    "form": ["default", "unstacked", "reversible"],
    "weight": ["none", "vector", "column"],
    "dtype": ["float32", "float64"],
    "feed": ["arrays", "data set", "steps"],
    "bounded": [False, True],
    "eager": [False, True],
    "file": ["weights", "keras", "saved model"],
}
WITHOUT_FORMS = ("maf", "planar")
N, BATCH = 22, 8  # the last batch is a smaller one
QUICK = 4


def pairwise(choices: dict[str, list]) -> list[dict]:
    """Rows of choices that hold every pair of two choices, found greedily."""
    random = np.random.RandomState(0)
    pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(choices, 2)
        for x in choices[a]
        for y in choices[b]
    }
    rows = []
    while pairs:
        must = dict(min(pairs, key=repr))
        drawn = [
            {name: values[random.randint(len(values))] for name, values in choices.items()} | must
            for _ in range(60)
        ]
        covered = [set(itertools.combinations(row.items(), 2)) & pairs for row in drawn]
        best = max(range(len(drawn)), key=lambda i: len(covered[i]))
        rows.append(drawn[best])
        pairs -= covered[best]
    return rows


ROWS = [
    pytest.param(
        row,
        id="-".join(str(v) for v in row.values()),
        marks=() if i < QUICK else pytest.mark.slow,
    )
    for i, row in enumerate(pairwise(CHOICES))
]


def build(row: dict) -> flows.FlowModel:
    kwargs = {"dtype": tf.as_dtype(row["dtype"])}
    if row["family"] not in WITHOUT_FORMS and row["form"] != "default":
        kwargs |= {"stacked": False, "reversible": row["form"] == "reversible"}
    if row["bounded"]:
        low, high = tf.constant([-1.0, 2.0], kwargs["dtype"])
        kwargs["data_bijector"] = tfb.Sigmoid(low, high)
    if row["context"] != "none":
        kwargs["context_shape"] = (2,)
    flow = FAMILIES[row["family"]](row["features"], row["layers"], **kwargs)
    if row["context"] == "labels":
        flow = flows.with_labels(flow, classes=3)
    if row["context"] == "encoder":
        net = keras.Sequential(
            [
                keras.layers.Input((4, 1), dtype=row["dtype"]),
                keras.layers.Conv1D(2, 2, dtype=row["dtype"]),
                keras.layers.GlobalAveragePooling1D(dtype=row["dtype"]),
            ]
        )
        flow = flows.distributions.Flow(flow.distribution, flow.bijector, (4, 1), net)
    return flows.FlowModel(flow)


def data(row: dict) -> tuple:
    random = np.random.RandomState(1)
    x = random.uniform(-0.9, 1.9, size=(N, row["features"])).astype(row["dtype"])
    context = {
        "none": None,
        "vector": 100.0 + random.normal(size=(N, 2)).astype(row["dtype"]),
        "labels": np.arange(N) % 3,
        "encoder": random.normal(size=(N, 4, 1)).astype(row["dtype"]),
    }[row["context"]]
    weight = None if row["weight"] == "none" else random.uniform(0.5, 1.5, N).astype("float32")
    return x, context, weight


def fed(row: dict, x, context, weight) -> tuple:
    """What `fit` and `evaluate` are given: positional and named arguments."""
    examples = x if context is None else (x, context)
    if weight is not None and row["weight"] == "column":
        weight = weight[:, None]
    if row["feed"] == "arrays":
        return examples, {"sample_weight": weight, "batch_size": BATCH}
    if weight is None:
        rows = tf.data.Dataset.from_tensor_slices((examples,))
    else:
        rows = tf.data.Dataset.from_tensor_slices((examples, np.zeros(N), weight))
    return rows.batch(BATCH), {}


@pytest.mark.parametrize("row", ROWS)
def test_combination(row, tmp_path):
    model, (x, context, weight) = build(row), data(row)
    given = {} if context is None else {"context": context}
    flows.initialize(model.flow, x, **given)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=row["eager"])
    before = [v.numpy() for v in model.flow.trainable_variables]
    examples, how = fed(row, x, context, weight)
    steps = {"steps_per_epoch": 2} if row["feed"] == "steps" else {}
    source = examples.repeat() if row["feed"] == "steps" else examples
    history = model.fit(source, epochs=3, verbose=0, **how, **steps)
    assert np.isfinite(history.history["loss"]).all()
    still = [
        v.name
        for v, old in zip(model.flow.trainable_variables, before, strict=True)
        if np.array_equal(v, old)
    ]
    assert not still

    log_prob = model.flow.log_prob(x, **given).numpy()
    eps = float(np.finfo(row["dtype"]).eps)
    close = {"rtol": 1e4 * eps, "atol": 1e4 * eps}  # sums in another order, some tens of layers
    np.testing.assert_allclose(model.log_prob(x, **given), log_prob, **close)
    expected = -np.mean(log_prob * (1.0 if weight is None else weight))
    found = model.evaluate(examples, verbose=0, return_dict=True, **how)["loss"]
    np.testing.assert_allclose(found, expected, **close)
    if context is not None:
        one = model.flow.condition(context[1])
        np.testing.assert_allclose(one.log_prob(x[1]), log_prob[1], **close)
    latents = model.encode(x, **given)
    np.testing.assert_allclose(model.decode(latents, **given), x, atol=1e5 * eps)
    samples = model.sample(N, seed=0, **given)
    assert samples.shape == x.shape and np.isfinite(samples).all()

    if row["file"] == "saved model":
        model.export(tmp_path / "served")
        served = tf.saved_model.load(str(tmp_path / "served")).signatures["log_prob"]
        named = {} if context is None else {"context": tf.constant(context, served_dtype(served))}
        again = served(x=tf.constant(x), **named)["log_prob"]
    elif row["file"] == "keras":
        model.save(tmp_path / "flow.keras")
        again = keras.saving.load_model(tmp_path / "flow.keras").log_prob(x, **given)
    else:
        model.save_weights(tmp_path / "flow.weights.h5")
        other = build(row)
        other.load_weights(tmp_path / "flow.weights.h5")
        again = other.log_prob(x, **given)
    np.testing.assert_allclose(again, log_prob, **close)


def served_dtype(served) -> tf.DType:
    return served.structured_input_signature[1]["context"].dtype


def test_every_pair_is_in_the_table():
    rows = [row.values[0] for row in ROWS]
    for (a, xs), (b, ys) in itertools.combinations(CHOICES.items(), 2):
        met = {(row[a], row[b]) for row in rows}
        assert met == set(itertools.product(xs, ys)), (a, b)
