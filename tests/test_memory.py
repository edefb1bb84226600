"""A result that does not fit into memory is refused before it is made, with the sizes that were asked for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import autograd_geo as ag
from autograd_geo import memory

N = 20_000  # a matrix of N x N takes 3.0 GiB


@pytest.fixture
def two_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 << 30)


def vector(dtype: Any = float) -> ag.Tensor:
    return ag.tensor(np.ones(N, dtype), requires_grad=True)


LARGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pointwise": (lambda x: x[:, None] * x[None, :], r"multiply: .* of shapes \(20000, 1\) and \(1, 20000\)"),
    "with an array": (lambda x: x[:, None] - np.ones((1, N)), r"subtract: .* of shapes \(20000, 1\) and \(1, 20000\)"),
    "unrecorded": (lambda x: x.detach()[:, None] + x.detach(), r"add: .* of shapes \(20000, 1\) and \(20000,\)"),
    "where": (lambda x: ag.where(x[:, None] > 0, x, 0.0), r"where: .*\(20000, 1\) and \(20000,\)"),
    "outer": (lambda x: ag.outer(x, x), "einsum: "),
    "np.outer": (lambda x: np.outer(x, x.detach().numpy()), "einsum: "),
    "einsum": (lambda x: ag.einsum("i,j->ij", x, x), "einsum: "),
    "tensordot": (lambda x: ag.tensordot(x, x, 0), "einsum: "),
    "matmul": (lambda x: x.reshape(N, 1) @ x.reshape(1, N), "matmul: "),
    "dense": (lambda x: ag.ops.linalg.dense(x[:, None], x[:, None]), "dense: "),
    "jacobian": (ag.jacobian(lambda x: x * x), "jacobian: "),
    "hessian": (ag.hessian(lambda x: (x * x).sum()), "jacobian: "),
    "zeros": (lambda x: ag.zeros((N, N)), "zeros: "),
    "ones": (lambda x: ag.ones((N, N)), "ones: "),
    "full": (lambda x: ag.full((N, N), 3.0), "full: "),
    "eye": (lambda x: ag.eye(N), "eye: "),
    "arange": (lambda x: ag.arange(N * N), "arange: "),
    "linspace": (lambda x: ag.linspace(0.0, 1.0, N * N), "linspace: "),
    "tensor": (lambda x: ag.tensor(np.broadcast_to(1.0, (N, N))), "tensor: "),
    "compiled": (ag.compile(lambda x: (x[:, None] * x).sum()), "multiply: "),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_does_not_fit_is_refused_before_it_is_made(name: str, two_gib: None) -> None:
    """The message names the op, what was asked for and what there is; nothing near that size was taken."""
    call, message = LARGE[name]
    x = vector()
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match=message) as error:
            call(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(error.value)
    assert "3.0 GiB as" in text and "; 2.0 GiB of memory are available" in text
    assert "(20000, 20000)" in text or "(400000" in text
    assert peak < 64 << 20
    (x * x).sum().backward()
    assert x.grad is not None and x.grad.numpy()[0] == 2.0


def test_more_than_this_machine_has() -> None:
    n = int((psutil.virtual_memory().total * 2 / 8) ** 0.5)
    x = ag.tensor(np.ones(n))
    with pytest.raises(MemoryError, match=r"multiply: .* of shapes .* GiB as float64; .* GiB of memory are available"):
        x[:, None] * x


def test_sizes_are_those_of_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 takes half, comparisons an eighth; what is reduced on the way is not taken at all."""
    monkeypatch.setattr(memory, "available", lambda: 1 << 30)
    x = vector(np.float32)
    with pytest.raises(MemoryError, match=r"1\.5 GiB as float32"):
        x[:, None] * x
    assert ag.einsum("i,j->", x, x).item() == N * N
    assert (x.reshape(1, N) @ x.reshape(N, 1)).item() == N


@pytest.mark.parametrize("call", [lambda x: x[:, None] * x, lambda x: x[:, None] > x, lambda x: ag.outer(x, x)])
def test_what_fits_is_made(call: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked about large results only."""
    asked = []
    monkeypatch.setattr(memory, "available", lambda: asked.append(1) or 1 << 40)
    x = ag.tensor(np.ones(9000, np.float32))
    assert call(x).shape == (9000, 9000)
    assert not asked


def test_absurd_sizes() -> None:
    with pytest.raises(MemoryError, match=r"zeros: the result would have shape .* GiB"):
        ag.zeros((10**9, 10**9))


CONTROL_GROUPS = {
    "version 2": ("0::/job/step\n", {
        "job/memory.max": "1000", "job/memory.current": "700", "job/memory.stat": "anon 1\ninactive_file 50\n",
        "job/step/memory.max": "max", "job/step/memory.current": "600", "job/step/memory.stat": "inactive_file 0\n",
    }, [350]),
    "version 1": ("5:cpu:/x\n4:memory:/job\n", {
        "memory/job/memory.limit_in_bytes": "500", "memory/job/memory.usage_in_bytes": "700",
        "memory/job/memory.stat": "total_inactive_file 100\n", "memory/memory.limit_in_bytes": "9000",
        "memory/memory.usage_in_bytes": "1000", "memory/memory.stat": "cache 5\n",
    }, [0, 8000]),
    "seen from inside": ("0::/job\n", {
        "memory.max": "1000", "memory.current": "100", "memory.stat": "inactive_file 7\n",
    }, [907]),
    "none": ("1:cpu:/\n", {}, []),
    "unreadable": ("0::/\n", {"memory.max": "1000", "memory.current": "many", "memory.stat": ""}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROL_GROUPS)
def test_what_a_container_is_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, files, expected = CONTROL_GROUPS[name]
    (tmp_path / "mine").write_text(mine)
    for path, text in files.items():
        (tmp_path / "groups" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / path).write_text(text)
    monkeypatch.setattr(memory, "_MINE", tmp_path / "mine")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    assert list(memory._limits()) == expected
    assert memory.available() == min([psutil.virtual_memory().total, *expected]) or not expected


def test_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MINE", tmp_path / "nothing")
    assert 0 < memory.available() <= psutil.virtual_memory().total
