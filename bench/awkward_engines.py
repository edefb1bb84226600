"""The engines that `bench.awkward` asks, under one interface: arrays in, derivatives as arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from .harness import OURS
from .peers import LIBRARIES, Library

COMPILED = f"{OURS}, compiled"


class Missing(AttributeError):
    """The engine has no such feature. An AttributeError, so that an engine can be asked what it has."""


class Engine:
    """A library. Its functions are attributes, of NumPy's names; those of `functions` come before its own.

    Leaves share the memory of the array that they are made of where the library offers that.
    """

    def __init__(self, library: Library, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.engine = library
        self.functions = functions or {}

    def __getattr__(self, name: str) -> Any:
        found = self.functions.get(name) or getattr(self.engine.xp, name, None)
        if found is None:
            raise Missing(name)
        return found

    def constant(self, x: Any) -> Any:
        return self.engine.constant(x)

    def array(self, x: Any) -> Any:
        """The value of what the engine computed, without a copy where it allows that."""
        return x.detach().numpy() if hasattr(x, "detach") else x.numpy() if hasattr(x, "numpy") else np.asarray(x)

    def value(self, fn: Callable[..., Any], *values: Any) -> Any:
        return self.array(fn(*[self.leaf(v) for v in values]))

    def pull(self, fn: Callable[..., Any], *values: Any, seed: Any = None, then: Any = None, times: int = 1) -> Any:
        """The gradients of fn, whose output gets the gradient `seed`; `then` runs before they are read."""
        leaves = [self.leaf(v) for v in values]
        out = fn(*leaves)
        for _ in range(times):
            self.backward(out, seed)
        gradients = [v.grad for v in leaves]
        if then is not None:
            then(*gradients)
        arrays = [np.zeros(np.shape(v)) if g is None else self.array(g) for v, g in zip(values, gradients, strict=True)]
        return arrays[0] if len(arrays) == 1 else arrays

    def backward(self, out: Any, seed: Any) -> None:
        if seed is None:
            out.backward()
        else:
            out.backward(seed)

    def grad(self, fn: Callable[..., Any], *values: Any) -> Any:
        """The gradient of a function that returns one number; a list for several arguments."""
        return self.pull(fn, *values)

    def leaf(self, x: Any) -> Any:
        if self.engine.leaf is None:
            raise Missing("leaf")
        return self.engine.leaf(x)


class Transforming(Engine):
    """A library that differentiates functions, and has no leaves."""

    def value(self, fn: Callable[..., Any], *values: Any) -> Any:
        return np.asarray(fn(*values))

    def pull(self, fn: Callable[..., Any], *values: Any, seed: Any = None, then: Any = None, times: int = 1) -> Any:
        if seed is None:
            gradients = [self.engine.gradient(fn)(*values) for _ in range(times)][-1]
        else:
            gradients = self.vjp(fn, *values)(seed)
        if then is not None:
            then(*gradients)
        arrays = [self.array(g) for g in gradients]
        return arrays[0] if len(arrays) == 1 else arrays


def ours() -> Engine:
    import autograd_geo as ag

    return Engine(LIBRARIES[OURS](), {
        "arctan2": ag.atan2, "arcsinh": ag.asinh, "derivative": ag.grad, "no_grad": ag.no_grad,
    })  # fmt: skip


class Compiled(Engine):
    """Ours, where derivatives and values come from compiled functions. What Python does beside them is not asked."""

    def value(self, fn: Callable[..., Any], *values: Any) -> Any:
        import autograd_geo as ag

        return self.array(ag.compile(fn)(*values))

    def grad(self, fn: Callable[..., Any], *values: Any) -> Any:
        import autograd_geo as ag

        found = [self.array(g) for g in ag.compile(ag.grad(fn, range(len(values))))(*values)]
        return found[0] if len(found) == 1 else found

    def pull(self, fn: Callable[..., Any], *values: Any, seed: Any = None, then: Any = None, times: int = 1) -> Any:
        raise Missing("a tape")

    def leaf(self, x: Any) -> Any:
        raise Missing("leaf")


def compiled() -> Engine:
    return Compiled(LIBRARIES[OURS](), ours().functions)


def pytorch() -> Engine:
    torch: Any = import_module("torch")

    class PyTorch(Engine):
        def constant(self, x: Any) -> Any:
            return torch.from_numpy(x) if isinstance(x, np.ndarray) else torch.tensor(x)

        def leaf(self, x: Any) -> Any:
            return self.constant(x).requires_grad_()

        def backward(self, out: Any, seed: Any) -> None:
            out.backward(None if seed is None else self.constant(seed))

    functional = torch.nn.functional
    return PyTorch(LIBRARIES["PyTorch"](), {
        "norm": torch.linalg.norm, "sort": lambda x: torch.sort(x)[0], "softplus": functional.softplus,
        "softmax": lambda x: torch.softmax(x, -1), "log_softmax": lambda x: torch.log_softmax(x, -1),
        "logsumexp": lambda x: torch.logsumexp(x, 0), "std": lambda x: torch.std(x, correction=0),
        "var": lambda x: torch.var(x, correction=0), "derivative": torch.func.grad,
    })  # fmt: skip


def hips_autograd() -> Engine:
    autograd: Any = import_module("autograd")

    class HipsAutograd(Transforming):
        def array(self, x: Any) -> Any:
            return import_module("autograd.tracer").getval(x)

        def vjp(self, fn: Callable[..., Any], *values: Any) -> Callable[[Any], Any]:
            pull: Callable[[Any], Any] = autograd.make_vjp(fn, tuple(range(len(values))))(*values)[0]
            return pull

    library = LIBRARIES["HIPS autograd"]()
    special = import_module("autograd.scipy.special")
    return HipsAutograd(library, {
        "norm": library.xp.linalg.norm, "logsumexp": special.logsumexp, "sigmoid": special.expit,
        "derivative": autograd.grad,
    })  # fmt: skip


def jax_eager() -> Engine:
    library = LIBRARIES["JAX, not compiled"]()
    jax: Any = import_module("jax")

    class Jax(Transforming):
        def vjp(self, fn: Callable[..., Any], *values: Any) -> Callable[[Any], Any]:
            pull: Callable[[Any], Any] = jax.vjp(fn, *values)[1]
            return pull

    nn = jax.nn
    return Jax(library, {
        "norm": library.xp.linalg.norm, "logsumexp": nn.logsumexp, "relu": nn.relu, "sigmoid": nn.sigmoid,
        "softplus": nn.softplus, "softmax": nn.softmax, "log_softmax": nn.log_softmax, "derivative": jax.grad,
    })  # fmt: skip


def mygrad() -> Engine:
    library = LIBRARIES["MyGrad"]()
    module = library.xp
    nnet: Any = import_module("mygrad.nnet.activations")

    class MyGrad(Engine):
        def constant(self, x: Any) -> Any:
            return module.tensor(x, constant=True, copy=False)

        def leaf(self, x: Any) -> Any:
            return module.tensor(x, copy=False)

        def array(self, x: Any) -> Any:
            return np.asarray(getattr(x, "data", x))

    return MyGrad(library, {
        "norm": module.linalg.norm, "relu": nnet.relu, "sigmoid": nnet.sigmoid, "softmax": nnet.softmax,
        "log_softmax": nnet.logsoftmax, "no_grad": lambda: module.no_autodiff,
    })  # fmt: skip


def tinygrad() -> Engine:
    tensor: Any = import_module("tinygrad").Tensor

    class Tinygrad(Engine):
        def leaf(self, x: Any) -> Any:
            if np.ndim(x) == 0:  # tinygrad takes a number for a constant, which gets no gradient
                return tensor(np.reshape(x, 1)).realize().reshape(())
            return tensor(x).realize()

        def array(self, x: Any) -> Any:
            return x.numpy()

        def constant(self, x: Any) -> Any:
            return tensor(x)

        def backward(self, out: Any, seed: Any) -> None:
            out.backward(None if seed is None else tensor(seed))

        def __getattr__(self, name: str) -> Any:
            found = self.functions.get(name) or getattr(tensor, name, None)
            if found is None:
                raise Missing(name)
            return found

    return Tinygrad(Library(_no_transform), {
        "sort": lambda x: x.sort()[0], "std": lambda x: x.std(correction=0), "var": lambda x: x.var(correction=0),
        "arcsinh": tensor.asinh, "where": lambda condition, x, y: condition.where(x, y),
    })  # fmt: skip


def _no_transform(fn: Callable[..., Any]) -> Any:
    raise Missing("grad")


def micrograd() -> Engine:
    library = LIBRARIES["micrograd"]()

    class Micrograd(Engine):
        def leaf(self, x: Any) -> Any:
            if np.ndim(x):
                raise Missing("arrays")
            return super().leaf(x.item() if isinstance(x, np.ndarray) else x)

        def array(self, x: Any) -> Any:
            return np.asarray(getattr(x, "data", x))

        def constant(self, x: Any) -> Any:
            return self.leaf(x)

        def backward(self, out: Any, seed: Any) -> None:
            if seed is not None:
                raise Missing("a gradient to start with")
            out.backward()

    return Micrograd(library, {"relu": lambda x: x.relu()})


ENGINES: dict[str, Callable[[], Engine]] = {
    OURS: ours,
    COMPILED: compiled,
    "HIPS autograd": hips_autograd,
    "MyGrad": mygrad,
    "micrograd": micrograd,
    "tinygrad": tinygrad,
    "PyTorch": pytorch,
    "JAX": jax_eager,
}
