"""Modules of one structure, whose parameters are stacked: one variable for each kind of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfp_flows.core.evaluation import at_index
from tfp_flows.core.naming import variable_paths
from tfp_flows.core.network import Network
from tfp_flows.core.random_values import reinitialised_values
from tfp_flows.core.substitution import substituted
from tfp_flows.core.variables import Snapshot, set_trainable


class Stack(tf.Module):
    """`count` modules of one structure: one of them as a template, and stacked variables.

    Args:
      template: the module that is evaluated; its own variables are not used any more.
      variables: `{path in the template: variable of shape [count, *shape]}`.
      count: how many modules there are.
      name: name of the module.
    """

    _TF_MODULE_IGNORED_PROPERTIES = tf.Module._TF_MODULE_IGNORED_PROPERTIES | {
        "_template",
        "_own",
        "_tracked",
    }

    def __init__(
        self,
        template: tf.Module,
        variables: Mapping[str, tf.Variable],
        count: int,
        name: str = "stack",
    ):
        super().__init__(name=name)
        self.count = count
        self._template = self._no_dependency(template)
        own = variable_paths(template)
        self._own = self._no_dependency([own[path] for path in variables])
        self._tracked = dict(variables)  # for checkpoints
        self.variables_by_path = _LiveStack(template, self._own, variables)

    @classmethod
    def of(cls, make: Callable[[], tf.Module], count: int, name: str = "stack") -> Stack:
        """Stacks `count` modules made by `make`.

        Raises:
          ValueError: if they differ in the shapes of their variables.
        """
        template = make()
        values = [[v.numpy() for v in template.variables]]
        for _ in range(count - 1):
            values.append([v.numpy() for v in make().variables])
            if [v.shape for v in values[-1]] != [v.shape for v in values[0]]:
                raise ValueError(
                    f"The modules of {name} must be equal in structure, but the shapes of their "
                    f"variables differ: {[v.shape for v in values[0]]} and "
                    f"{[v.shape for v in values[-1]]}."
                )
        return cls(template, _stacked(template, values), count, name)

    @classmethod
    def like(cls, template: tf.Module, count: int, name: str = "stack") -> Stack:
        """Stacks a module `count` times; what starts at random in it is drawn for each module."""
        values = [[v.numpy() for v in template.variables]]
        for index in range(1, count):
            drawn = reinitialised_values(template, index)
            pairs = zip(template.variables, values[0], strict=True)
            values.append([drawn.get(id(v), value) for v, value in pairs])
        return cls(template, _stacked(template, values), count, name)

    @property
    def template(self) -> tf.Module:
        """The module that stands for all; its values mean something inside `at` only."""
        return self._template

    @property
    def pairs(self) -> list[tuple[tf.Variable, tf.Variable]]:
        """Each of the template's variables with the stacked one."""
        return list(zip(self._own, self.stacked, strict=True))

    @property
    def stacked(self) -> list[tf.Variable]:
        """The stacked variables, in the order of the template's."""
        return list(self.variables_by_path.values())

    def slices(self) -> Iterator[list[tf.Tensor]]:
        """The values of each module's variables, one module after the other."""
        for i in range(self.count):
            yield [variable[i] for variable in self.stacked]

    @contextlib.contextmanager
    def at(self, slices: list[tf.Tensor]) -> Iterator[dict[int, tf.Tensor]]:
        """Within the block the template has these values; yields what it assigns, by position."""
        with substituted(self._own, slices) as assigned:
            yield assigned

    @contextlib.contextmanager
    def assigned(self, index: int) -> Iterator[None]:
        """Within the block the template's own variables have the values of one module.

        For a look at one module in eager mode, whose reads `at` does not replace.
        """
        before = Snapshot(self._own)
        try:
            for own, stacked in self.pairs:
                own.assign(stacked[index])
            yield
        finally:
            before.restore()

    def scan(
        self,
        body: Callable[..., tuple[tuple, list[tf.Tensor]]],
        values: tuple,
        outputs_like: Sequence[tf.Variable],
        reverse: bool = False,
        unroll: bool = False,
    ) -> tuple[tuple, list[tf.Tensor]]:
        """Folds a function over the modules, while the template has the values of each.

        Args:
          body: called as `(values, outputs) = body(slices, assigned, *values)`, with what `at` gets
            and yields.
          values: the first values: tensors, or nests of them, that keep their shapes.
          outputs_like: for each of the outputs a stacked variable, whose slices have its shape.
          reverse: whether to begin with the last module.
          unroll: whether every module gets a place of its own in the graph, in place of a loop.

        Returns:
          The last values, and the outputs, stacked in the order of the modules.
        """
        variables, last = self.stacked, self.count - 1
        if unroll:
            slices = list(self.slices())
            outputs = [None] * self.count
            for i in range(last, -1, -1) if reverse else range(self.count):
                with self.at(slices[i]) as assigned, at_index(i):
                    values, outputs[i] = body(slices[i], assigned, *values)
            return values, [tf.stack(of_all) for of_all in zip(*outputs, strict=True)]

        def step(n, values, outputs):
            i = last - n if reverse else n
            slices = [array.read(i) for array in arrays]
            with self.at(slices) as assigned, at_index(i):
                values, found = body(slices, assigned, *values)
            return n + 1, values, [o.write(i, f) for o, f in zip(outputs, found, strict=True)]

        # Not gathered: the gradient of a read has the size of one slice, that of a gather of all.
        arrays = [self._array(v).unstack(v) for v in variables]
        _, values, outputs = tf.while_loop(
            lambda n, *_: n <= last,
            step,
            (0, values, [self._array(v) for v in outputs_like]),
            maximum_iterations=self.count,
        )
        return values, [array.stack() for array in outputs]

    def _array(self, like: tf.Variable) -> tf.TensorArray:
        shape = like.shape[1:]
        return tf.TensorArray(like.dtype, self.count, clear_after_read=False, element_shape=shape)


class _LiveStack(Mapping):
    """Stacked variables by path; they are trained where the template's own are, at any time.

    So a network that is frozen is frozen in every module.
    """

    def __init__(
        self, template: tf.Module, own: list[tf.Variable], variables: Mapping[str, tf.Variable]
    ):
        self._networks = [m for m in _family(template) if isinstance(m, Network)]
        self._own = own
        self._variables = dict(variables)

    def __getitem__(self, path: str) -> tf.Variable:
        return self._variables[path]

    def __len__(self) -> int:
        return len(self._variables)

    def __iter__(self) -> Iterator[str]:
        for network in self._networks:
            network.follow_frozen()
        for own, stacked in zip(self._own, self._variables.values(), strict=True):
            set_trainable(stacked, own.trainable)
        return iter(self._variables)


def _stacked(template: tf.Module, values: list[list[np.ndarray]]) -> dict[str, tf.Variable]:
    """Variables for these values, given module by module in the order of `template.variables`."""
    paths = {id(v): path for path, v in variable_paths(template).items()}
    return {
        paths[id(variable)]: tf.Variable(
            np.stack(parts),
            trainable=variable.trainable,
            dtype=variable.dtype,
            constraint=_for_each(variable.constraint),
            name=variable.name.split("/")[-1].split(":")[0],
        )
        for variable, parts in zip(template.variables, zip(*values, strict=True), strict=True)
    }


def _for_each(constraint: Callable | None) -> Callable | None:
    if constraint is None:
        return None
    return lambda values: tf.stack([constraint(v) for v in tf.unstack(values)])


def networks(module: tf.Module) -> list[Network]:
    """The conditioners of `module`, those of stacked modules too."""
    modules = [m for s in module.submodules if isinstance(s, Stack) for m in _family(s.template)]
    return [m for m in (*_family(module), *modules) if isinstance(m, Network)]


def validate_repeatable(module: tf.Module) -> None:
    """Raises ValueError if a conditioner of `module` cannot repeat an evaluation."""
    for network in networks(module):
        if network.is_random:
            raise ValueError(
                f"{module.name} cannot recompute activations: conditioner {network!r} holds a "
                "random layer of tf_keras, such as dropout, which draws other numbers when "
                "activations are recomputed. Use a Keras 3 network, or reversible=False."
            )


def _family(module: tf.Module) -> list[tf.Module]:
    return [module, *module.submodules]
