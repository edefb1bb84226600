"""Tensors to and from other libraries without a copy, and without a way to change a tape."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

import autograd_geo as ag
from autograd_geo.cuda.array import DeviceArray
from autograd_geo.interop import dlpack
from autograd_geo.tensor import wrap


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """In the simulator the device's memory is the host's, so that NumPy can look at it."""
    if request.param == "cuda" and not (ag.cuda.is_available() and ag.cuda.device_name() == "Numba's simulator"):
        pytest.skip("NumPy takes arrays on the host only")
    return str(request.param)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i4", "u1", "?"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_numpy_sees_the_memory_itself(shape: tuple[int, ...], dtype: str, device: str) -> None:
    x = ag.tensor(np.random.default_rng(0).uniform(0, 9, shape).astype(dtype), device=device)
    before = len(dlpack._lent)
    there = np.from_dlpack(x)
    assert (there.shape, there.dtype) == (shape, np.dtype(dtype))
    np.testing.assert_array_equal(there, x.numpy())
    assert not there.flags.writeable
    if device == "cuda":
        assert there.ctypes.data == x._value.address
    assert len(dlpack._lent) == before + 1
    del there
    gc.collect()
    assert len(dlpack._lent) == before


def test_memory_lives_as_long_as_somebody_looks(device: str) -> None:
    there = np.from_dlpack(ag.tensor(np.arange(1000.0), device=device))
    gc.collect()
    other = ag.tensor(np.zeros(1000), device=device)
    np.testing.assert_array_equal(there, np.arange(1000.0))
    assert other.shape == (1000,)


def test_a_capsule_that_nobody_takes(device: str) -> None:
    before = len(dlpack._lent)
    capsule = ag.tensor([1.0], device=device).__dlpack__(max_version=(1, 0))
    assert len(dlpack._lent) == before + 1
    del capsule
    gc.collect()
    assert len(dlpack._lent) == before


def test_those_who_do_not_know_of_read_only_memory_get_a_copy(device: str) -> None:
    x = ag.tensor([1.0, 2.0], device=device)

    class Old:
        def __dlpack__(self, stream: Any = None, **kwargs: Any) -> Any:
            return x.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return x.__dlpack_device__()

    there = np.from_dlpack(Old())
    np.testing.assert_array_equal(there, x.numpy())
    if there.flags.writeable:
        there[0] = 9.0
    assert x.tolist() == [1.0, 2.0]
    with pytest.raises(BufferError, match="without a copy"):
        x.__dlpack__(copy=False)


def test_what_would_be_lost_is_refused(device: str) -> None:
    x = ag.tensor([1.0], requires_grad=True, device=device)
    with pytest.raises(BufferError, match="requires a gradient"):
        np.from_dlpack(x)
    np.testing.assert_array_equal(np.from_dlpack(x.detach()), [1.0])
    with pytest.raises(BufferError, match="move it first"):
        x.detach().__dlpack__(dl_device=(13, 0), max_version=(1, 0))


def test_from_numpy_is_a_copy() -> None:
    x = np.arange(3.0)
    t = ag.from_dlpack(x)
    x[0] = 7.0
    assert t.tolist() == [0.0, 1.0, 2.0]


def test_what_kernels_cannot_load_sixteen_bytes_at_a_time_is_copied() -> None:
    """A slice of another library's array begins anywhere."""
    if not ag.cuda.is_available():
        pytest.skip("no GPU, and the simulator is off")
    x = ag.tensor(np.arange(401, dtype=np.float32), device="cuda")._value
    part = wrap(DeviceArray(x._block, (20, 20), x.dtype, 4))
    taken = dlpack._taken(part.__dlpack__(max_version=(1, 0)))
    assert taken.address % 16 == 0
    found = wrap(taken) @ ag.tensor(np.eye(20, dtype=np.float32), device="cuda")
    np.testing.assert_array_equal(found.numpy().reshape(-1), np.arange(1, 401))


def test_what_is_taken_is_given_back_once() -> None:
    """As from a library on the GPU; the memory is the host's here."""
    if not ag.cuda.is_available():
        pytest.skip("no GPU, and the simulator is off")
    x = ag.tensor(np.arange(6.0).reshape(2, 3), device="cuda")
    before = len(dlpack._lent)
    capsule = x.__dlpack__(max_version=(1, 0))
    taken = dlpack._taken(capsule)
    assert isinstance(taken, DeviceArray) and taken.address == x._value.address
    with pytest.raises(TypeError, match="taken before"):
        dlpack._taken(capsule)
    del capsule
    gc.collect()
    assert len(dlpack._lent) == before + 1
    np.testing.assert_array_equal(taken.numpy(), x.numpy())
    del taken
    gc.collect()
    assert len(dlpack._lent) == before


def test_other_libraries_on_the_gpu_see_its_memory() -> None:
    if not ag.cuda.is_available():
        pytest.skip("no GPU, and the simulator is off")
    x = ag.tensor(np.ones((2, 3), np.float32), device="cuda")
    told = x.__cuda_array_interface__
    assert told["shape"] == (2, 3) and told["typestr"] == "<f4" and told["data"] == (x._value.address, True)
    assert not hasattr(ag.tensor([1.0]), "__cuda_array_interface__")
