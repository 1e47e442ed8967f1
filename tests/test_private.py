"""Private APIs of TensorFlow, TFP and Keras: each one is in one file, and is called here."""

import ast
import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_flows
from tfp_flows import bijectors as fb
from tfp_flows.core import private

tfb, tfd = tfp.bijectors, tfp.distributions

ENGINES = (keras, tf_keras)


def check_transformed_distribution():
    made = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), fb.Chain([tfb.Exp()]))
    assert type(made) is private.TransformedDistribution


def check_tfp_chain():
    assert type(tfb.Chain([fb.Chain([tfb.Exp()])])) is private.TFPChain


def check_recording():
    x, other = tf.ones([]), tf.ones([])
    with tf.GradientTape() as tape:
        tape.watch(x)
        assert private.recording([x, 2.0 * x, other]) == [1, 1, 0]
        with tf.GradientTape() as inner:
            inner.watch(x)
            assert private.recording([x]) == [2]
    assert private.recording([x]) == [0]


def check_watch():
    variable = tf.Variable(1.0)
    with tf.GradientTape() as tape:
        private.watch(variable)
    assert tape.watched_variables() == (variable,)


def check_no_tape():
    assert private.no_tape()
    with tf.GradientTape():
        assert not private.no_tape()


def check_outer_graph():
    seen = []

    @tf.function
    def outer():
        here = tf.compat.v1.get_default_graph()

        def body(n):
            seen.append(private.outer_graph(tf.compat.v1.get_default_graph()) is here)
            return n + 1

        return tf.while_loop(lambda n: n < 2, body, [0])

    outer()
    assert seen == [True]


def check_captures():
    variable = tf.Variable(1.0)
    graph = tf.function(lambda: variable + 1.0).get_concrete_function().graph
    ((outer, inner),) = private.captures(graph)
    assert outer is variable.handle
    assert inner is graph.inputs[0]


def check_owned_by_graph():
    @tf.function
    def outer():
        graph = tf.compat.v1.get_default_graph()
        private.owned_by_graph(graph, "key")["entry"] = 1
        assert private.owned_by_graph(graph, "key") == {"entry": 1}
        assert private.owned_by_graph(graph, "other") == {}

        def body(n):  # an inner graph has a dict of its own
            assert private.owned_by_graph(tf.compat.v1.get_default_graph(), "key") == {}
            return n + 1

        return tf.while_loop(lambda n: n < 2, body, [0])

    outer()


def check_set_trainable():
    variable = tf.Variable(1.0)
    private.set_trainable(variable, False)
    assert not variable.trainable
    module = tf.Module()
    module.variable = variable
    assert module.trainable_variables == ()


def check_read_methods():
    variable = tf.Variable([1.0, 2.0])

    @tf.function
    def reads():
        methods = private.read_methods(lambda: tf.constant([3.0, 4.0]))
        for name, method in methods.items():
            assert callable(getattr(variable, name))  # what is replaced exists
            object.__setattr__(variable, name, method)
        assert private.is_replaced(variable)
        values = [
            variable + 0.0,
            tf.convert_to_tensor(variable),
            variable.value(),
            variable.read_value(),
            tf.gather(variable, [0, 1]),
            tf.gather_nd(variable, [[0], [1]]),
        ]
        for name in methods:
            object.__delattr__(variable, name)
        return values

    for value in reads():
        np.testing.assert_array_equal(value, [3.0, 4.0])


def check_is_replaced():
    assert not private.is_replaced(tf.Variable(1.0))  # and where it is: see `read_methods`


def check_attributes():
    module = tf.Module()
    module.parts = [tf.Variable(1.0)]
    found = private.attributes(module, lambda leaf: isinstance(leaf, tf.Variable))
    assert found == [(("parts", 0), module.parts[0])]


def check_has_other_workers():
    assert not private.has_other_workers(tf.distribute.MirroredStrategy(["/cpu:0"]))


def check_is_injective():
    assert private.is_injective(tfb.Exp())
    assert not private.is_injective(tfb.AbsoluteValue())


def check_is_increasing():
    assert private.is_increasing(tfb.Exp())
    assert not private.is_increasing(tfb.Scale(-1.0))


def check_sublayers():
    for engine in ENGINES:
        inner = engine.layers.Dense(2)
        outer = engine.Sequential([engine.Sequential([inner])])
        assert inner in private.sublayers(outer)
        assert private.sublayers(outer)[0] is outer


def check_tf_variable():
    variable = tf.Variable(1.0)
    assert private.tf_variable(variable) is variable
    assert private.tf_variable(keras.Variable(variable)) is variable
    for engine in ENGINES:
        layer = engine.layers.Dense(2, dtype="mixed_float16")
        layer.build((None, 2))
        assert type(private.tf_variable(layer.kernel)) is type(variable)


def in_model(engine, training: bool | None):
    """`keras_modes()` inside a model of this engine that is called in this mode."""
    seen = []

    class Layer(engine.layers.Layer):
        def call(self, x):
            seen.append(private.keras_modes())
            return x

    engine.Sequential([Layer()])(tf.ones([1, 1]), training=training)
    return seen[-1]


def check_keras_modes():
    assert private.keras_modes() == (False, False)
    assert in_model(keras, True) == (True, False)
    assert in_model(tf_keras, True) == (False, True)
    assert in_model(keras, False) == in_model(tf_keras, None) == (False, False)


def check_keras_mode():
    dropouts = [engine.layers.Dropout(0.5) for engine in ENGINES]
    x = tf.ones([100])
    for training in (True, False, True):
        with private.keras_mode(training):
            assert private.keras_modes() == (training, training)
            assert [bool(tf.reduce_any(d(x) == 0.0)) for d in dropouts] == [training] * 2
            with private.keras_mode(not training):
                assert [bool(tf.reduce_any(d(x) == 0.0)) for d in dropouts] == [not training] * 2
            assert private.keras_modes() == (training, training)
    assert private.keras_modes() == (False, False)


def check_has_random_state():
    assert private.has_random_state(tf_keras.layers.Dropout(0.5))
    assert not private.has_random_state(tf_keras.layers.Dense(2))


def check_learning_rate():
    for engine in ENGINES:
        schedule = engine.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
        assert private.learning_rate(engine.optimizers.SGD(schedule)) is schedule
        rate = private.learning_rate(engine.optimizers.SGD(0.5))
        assert float(tf.convert_to_tensor(rate)) == 0.5
        wrap = getattr(engine, "mixed_precision", engine.optimizers).LossScaleOptimizer
        assert private.learning_rate(wrap(engine.optimizers.SGD(schedule))) is schedule


def check_loss_scale_state():
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(tf_keras.optimizers.SGD())
    state = private.loss_scale_state(optimizer)
    assert set(state) == {"current_loss_scale", "good_steps"}
    assert all(isinstance(v, tf.Variable) for v in state.values())


def check_apply_summed():
    class SGD(keras.optimizers.SGD):
        def _all_reduce_sum_gradients(self, pairs):
            raise AssertionError("gradients are summed once more")

    variable, optimizer = keras.Variable(1.0), SGD(0.5)
    with pytest.raises(AssertionError, match="once more"):  # where Keras sums
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
    private.apply_summed(optimizer, [(tf.constant(1.0), variable)])
    assert float(variable.value) == 0.5
    assert "_all_reduce_sum_gradients" not in vars(optimizer)
    with pytest.raises(NotImplementedError, match="sums gradients"):
        private.apply_summed(object(), [])


def check_hdf5_of(tmp_path):
    for engine in ENGINES:
        seen = []

        class Layer(engine.layers.Layer):
            def build(self, _):
                self.scale = self.add_weight(name="scale", shape=())

            def call(self, x):
                return x * self.scale

            def load_own_variables(self, store, seen=seen):
                seen.append(private.hdf5_of(store).filename)  # of an open `h5py.File`
                super().load_own_variables(store)

        model = engine.Sequential([engine.layers.Input((1,)), Layer()])
        path = str(tmp_path / f"{engine.__name__}.weights.h5")
        model.save_weights(path)
        model.load_weights(path)
        assert seen == [path]


# A table by name: `test_each_is_called` fails for a name of the module that is not in it.
CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}
NAMED = {"TransformedDistribution": "transformed_distribution", "TFPChain": "tfp_chain"}


def public_names() -> set[str]:
    own = {
        name
        for name, value in vars(private).items()
        if inspect.isfunction(value) and value.__module__ == private.__name__
    }
    return own | set(NAMED)


@pytest.mark.parametrize("name", sorted(public_names()))
def test_each_is_called(name, tmp_path):
    check = CHECKS[NAMED.get(name, name)]
    check(*([tmp_path] if inspect.signature(check).parameters else []))


def test_each_check_has_its_function():
    assert set(CHECKS) == {NAMED.get(name, name) for name in public_names()}


def test_each_says_what_breaks():
    for name in public_names() - set(NAMED):
        assert inspect.getdoc(getattr(private, name)), name


# The sources: private names of others stand in `core/private.py` alone.

PACKAGE = Path(tfp_flows.__file__).parent
SOURCES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Hooks for subclasses that are called rather than overridden, and the fields of a named tuple.
HOOKS = {"_no_dependency", "_name_and_control_scope", "_fields", "_replace", "_asdict"}
# A program of its own, which does not import the package.
PROGRAMS = {"saving/onnx_converter.py"}


def own_names() -> set[str]:
    """All names that the package defines itself, as functions, attributes and fields."""
    names = set()
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def private_uses(tree: ast.AST) -> set[str]:
    """Private modules that are imported, and attributes with a leading underscore."""
    uses = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            uses |= {alias.name for alias in node.names if is_private_module(alias.name)}
        elif isinstance(node, ast.ImportFrom) and is_private_module(node.module):
            uses.add(node.module)
        elif isinstance(node, ast.Attribute):
            if is_private_module(ast.unparse(node)) or is_private(node.attr):
                uses.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("attr", "setattr__")):
            named = [a.value for a in node.args if isinstance(a, ast.Constant)]
            uses |= {name for name in named if isinstance(name, str) and is_private(name)}
    return uses


def is_private_module(name: str | None) -> bool:
    private_modules = ("tensorflow.python", "tensorflow_probability.python", "tf.python")
    parts = (name or "").split(".")
    is_keras = parts[0].startswith(("keras", "tf_keras")) and parts[1:2] == ["src"]
    return is_keras or ".".join(parts[:2]) in private_modules


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("file", sorted(set(SOURCES) - PROGRAMS - {"core/private.py"}))
def test_no_other_file_uses_private_names(file):
    assert private_uses(SOURCES[file]) <= own_names() | HOOKS


def test_the_scan_finds_private_names():
    found = private_uses(SOURCES["core/private.py"])
    assert {"_is_injective", "_flatten", "_learning_rate", "src"} <= found - own_names()
    assert "tensorflow.python" in found
