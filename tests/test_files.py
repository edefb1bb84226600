"""Checkpoints and other files: exact round trips, damage refused with nothing loaded, the old file or the new."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import autograd_geo as ag
from autograd_geo import checkpoint, data, nn, optim
from autograd_geo.files import write_atomically
from autograd_geo.random import Generator
from bench.fuzz.targets import _same, sealed

KINDS = [np.dtype(c) for c in "? u1 u2 u4 u8 i1 i2 i4 i8 f2 f4 f8 c8 c16 >f8 >i4".split()]


def made(state: Any, tmp_path: Path) -> bytes:
    ag.save(tmp_path / "c.safetensors", state)
    return (tmp_path / "c.safetensors").read_bytes()


def with_structure(structure: Any, arrays: dict[str, Any] | None = None) -> bytes:
    """A file with a checksum that fits, and with any structure in it."""
    text = structure if isinstance(structure, str) else json.dumps(structure)
    return sealed(safetensors.numpy.save(arrays or {}, {"autograd_geo": text, "sha256": "0" * 64}))


def with_header(header: str, body: bytes = b"") -> bytes:
    encoded = header.encode()
    return sealed(struct.pack("<Q", len(encoded)) + encoded + body)


def with_tensor(dtype: str, shape: str, end: str, body: bytes = b"") -> bytes:
    meta = json.dumps({"autograd_geo": "{}", "sha256": "0" * 64}, separators=(",", ":"))
    tensor = f'{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[0,{end}]}}'
    return with_header(f'{{"w":{tensor},"__metadata__":{meta}}}', body)


ARRAYS = st.sampled_from(KINDS).flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0)))
STATES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec="utf-8")), ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4),
    ),
)


def native(state: Any) -> Any:
    if isinstance(state, np.ndarray):
        return np.array(state, state.dtype.newbyteorder("="))
    if isinstance(state, dict):
        return {key: native(value) for key, value in state.items()}
    return type(state)(map(native, state)) if isinstance(state, list | tuple) else state


@given(STATES)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    ag.save(path, state)
    assert _same(ag.load(path), native(state))


def test_training_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    def parts() -> tuple[Any, ...]:
        net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        return net, optim.Adam(net.parameters(), lr=0.1), Generator(5), data.MinMaxScaler((0, 2))

    def train(net: Any, optimizer: Any, generator: Any) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            nn.mse_loss(net(generator.normal((4, 2))), np.ones((4, 1))).backward()
            optimizer.step()

    first = parts()
    first[3].fit(np.array([[1.0, 2.0], [3.0, 5.0]]))
    train(*first[:3])
    path = tmp_path / "all.safetensors"
    ag.save(path, [part.state_dict() for part in first])
    second = parts()
    for part, state in zip(second, ag.load(path), strict=True):
        part.load_state_dict(state)
    train(*first[:3])
    train(*second[:3])
    for a, b in zip(first, second, strict=True):
        assert _same(a.state_dict(), b.state_dict())


def test_other_programs_see_the_arrays(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    ag.save(path, {"model": {"w": ag.tensor([1.0, 2.0])}, "model.w": np.float32(3), "n": 1})
    seen = safetensors.numpy.load_file(path)
    assert {name: a.tolist() for name, a in seen.items()} == {"model.w": [1.0, 2.0], "model.w'": 3.0}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"a": {"b": object()}}, TypeError, "a.b is a object"),
        ({"a": np.array(["x"])}, TypeError, "a has dtype <U1"),
        ({"a": np.array([None])}, TypeError, "dtype object"),
        ({"a": np.ma.masked_array([1.0], [True])}, TypeError, "MaskedArray"),
        ({1: 2}, TypeError, "keys of a dict are texts"),
    ],
)
def test_what_cannot_be_saved_leaves_the_file(state: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    before = made({"old": 1}, tmp_path)
    with pytest.raises(error, match=message):
        ag.save(tmp_path / "c.safetensors", state)
    assert (tmp_path / "c.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_a_state_within_itself_is_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        ag.save(tmp_path / "c.safetensors", loop)


def test_every_flipped_bit_and_every_truncation_is_refused(tmp_path: Path) -> None:
    content = made({"w": np.arange(3.0), "n": [1, (2.5, None)]}, tmp_path)
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(checkpoint.CheckpointError, match="nothing was loaded"):
            checkpoint.read(bytes(damaged))
    for length in range(len(content)):
        with pytest.raises(checkpoint.CheckpointError, match="nothing was loaded"):
            checkpoint.read(content[:length])
    with pytest.raises(checkpoint.CheckpointError, match="nothing was loaded"):
        checkpoint.read(content + b"\0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 2**63) + b"{}", "header should have 9223372036854775808 bytes"),
        (b"\x80\x04\x95pickle..", "truncated or no checkpoint"),
        (with_header("[" * 100_000), "nested too deeply"),
        (with_header("[]"), "no JSON object"),
        (with_header('{"a":NaN}'), "holds NaN"),
        (with_header("{'a'}"), "is not JSON"),
        (with_header('{"a":' + "9" * 5000 + "}"), "is not JSON"),
        (with_header('{"a":1,"a":2}'), "a key twice"),
        (with_header("{}"), "not written by autograd_geo.save"),
        (with_header('{"__metadata__":{"autograd_geo":1,"sha256":"%s"}}' % ("0" * 64)), "metadata are not text"),
        (with_tensor("F64", "-1", "8", b"12345678"), "no valid"),
        (with_tensor("F64", "2", "8", b"12345678"), "no valid"),
        (with_tensor("F64", "1", "1e99"), "no valid"),
        (with_tensor("O", "1", "8", b"12345678"), "no valid"),
        (with_tensor("BF16", "1", "2", b"12"), "dtype BF16"),
        (with_tensor("U8", "1," * 70 + "1", "1", b"1"),
         "cannot be made"),
        (with_structure("("), "structure is not JSON"),
        (with_structure("[" * 100_000), "nested too deeply"),
        (with_structure("[" * 200 + "]" * 200), "nested too deeply"),
        (with_structure({"array": "../../etc/passwd"}), "never writes"),
        (with_structure({"eval": "1"}), "never writes"),
        (with_structure({"float": "1"}), "never writes"),
        (with_structure("1e999"), "never writes"),
        (with_structure({"tuple": [], "dict": {}}), "never writes"),
        (with_structure([{"array": "w"}] * 2, {"w": np.ones(2)}), "never writes"),
        (with_structure({"complex": "w"}, {"w": np.ones(3)}), "never writes"),
        (with_structure({"complex": "w"}, {"w": np.ones(2, np.int64)}), "never writes"),
        (with_structure([], {"\x1b]0;title\x07": np.ones(2)}), "does not name"),
    ],
)  # fmt: skip
def test_hostile_checkpoints(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile\x1b.safetensors"
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=message) as caught:
        ag.load(path)
    assert str(caught.value).isprintable() and "hostile�.safetensors" in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(checkpoint.CheckpointError, match="no regular file"):
        ag.load(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="absent"):
        ag.load(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        ag.load(tmp_path)


def test_an_optimizer_refuses_a_state_that_does_not_fit() -> None:
    w = ag.tensor(np.ones(3), requires_grad=True)
    optimizer = optim.Adam([w], lr=0.1)
    (w * w).sum().backward()
    optimizer.step()
    good = optimizer.state_dict()
    slots = good["state"][0]

    def changed(**new: Any) -> dict[str, Any]:
        return {"lr": 0.5, "state": [{**slots, **new}]}

    wrong: list[tuple[Any, type[Exception]]] = [
        (changed(mean=np.ones(4)), ValueError), (changed(mean=np.array(["x"] * 3)), TypeError),
        (changed(step=-1), ValueError), (changed(step=1.5), TypeError), (changed(step=np.ones(3, int)), ValueError),
        (changed(velocity=np.ones(3)), KeyError), ({"lr": float("nan"), "state": [slots]}, ValueError),
        ({"lr": -1.0, "state": [slots]}, ValueError), ({"lr": 1.0, "state": []}, ValueError),
        ({"state": [slots]}, KeyError), ({**good, "more": 1}, KeyError),
    ]  # fmt: skip
    for state, error in wrong:
        with pytest.raises(error):
            optimizer.load_state_dict(state)
        assert _same(optimizer.state_dict(), good)


class _Kinds(nn.Module):
    def __init__(self) -> None:
        self.w = ag.Parameter(np.ones(2, np.float32))
        self.n, self.b = ag.tensor([1, 2]), ag.tensor([True])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("w", np.array([1e300, 1]), ValueError), ("w", np.ones(2, complex), TypeError), ("w", np.ones(3), ValueError),
     ("w", np.array(["1", "2"]), TypeError), ("n", np.array([1.5, 2]), TypeError), ("b", np.array([2.5]), TypeError)],
)  # fmt: skip
def test_a_module_refuses_a_state_that_does_not_fit(name: str, value: Any, error: type[Exception]) -> None:
    net = _Kinds()
    before = net.state_dict()
    other = {key: array * 0 for key, array in before.items()}
    with pytest.raises(error, match=name):
        net.load_state_dict({**other, name: value})
    assert _same(net.state_dict(), before)
    net.load_state_dict({**before, "w": np.array([np.inf, 2.0])})
    assert net.w.numpy().tolist() == [np.inf, 2.0]


def test_generators_and_scalers_refuse_a_state_that_does_not_fit() -> None:
    generator = Generator(3)
    generator.uniform(2)
    for state in ({"seed": -1, "stream": 0}, {"seed": 1, "stream": 2**64}, {"seed": "1", "stream": 0}):
        with pytest.raises(ValueError, match="must be an integer"):
            generator.load_state_dict(state)
    with pytest.raises(KeyError):
        generator.load_state_dict({"seed": 1})
    assert generator.mark() == (3, 1)

    scaler = data.MinMaxScaler().fit(np.array([1.0, 2.0]))
    before = scaler.state_dict()
    for new in ({"data_min_": 3.0}, {"data_min_": np.nan}, {"data_max_": np.ones(2)}, {"feature_range": (1, 0)}):
        with pytest.raises(ValueError, match="range"):
            scaler.load_state_dict({**before, **new})
    with pytest.raises(KeyError):
        scaler.load_state_dict({"feature_range": (0, 1), "data_min_": 1.0})
    assert _same(scaler.state_dict(), before)


# --- whole or not at all --------------------------------------------------------------------------------------

_KILLED = """
import os, sys
from autograd_geo.files import write_atomically

path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
real = getattr(os, name)

def killing(*args, **kwargs):
    global count
    count -= 1
    if count < 0:
        os._exit(9)  # as SIGKILL: nothing is tidied up
    result = real(*args, **kwargs)
    if count == 0:
        os._exit(9)
    return result

setattr(os, name, killing)
write_atomically(path, b"new" * 100_000)
"""


@pytest.mark.skipif(os.name == "nt", reason="the calls counted are POSIX's")
@pytest.mark.parametrize(
    ("call", "count", "expected"),
    [("open", 0, b"old"), ("chmod", 0, b"old"), ("chmod", 1, b"old"), ("fsync", 0, b"old"), ("fsync", 1, b"old"),
     ("replace", 0, b"old"), ("replace", 1, b"new"), ("fsync", 2, b"new")],
)  # fmt: skip
def test_a_killed_process_leaves_the_old_or_the_new(call: str, count: int, expected: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old" * 100_000)
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path), call, str(count)], check=False)
    assert done.returncode == 9  # it was killed there
    assert path.read_bytes() == expected * 100_000


def test_permissions_and_links_are_as_with_open(tmp_path: Path) -> None:
    plain, fresh = tmp_path / "plain", tmp_path / "fresh"
    plain.write_text("x")
    write_atomically(fresh, "x")
    assert stat.S_IMODE(fresh.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    plain.chmod(0o640)
    (tmp_path / "link").symlink_to(plain)
    write_atomically(tmp_path / "link", "neü")
    assert (tmp_path / "link").is_symlink() and plain.read_text("utf-8") == "neü"
    assert stat.S_IMODE(plain.stat().st_mode) == 0o640
    with pytest.raises(OSError, match="absent/file"):
        write_atomically(tmp_path / "absent" / "file", "x")
    long = tmp_path / ("n" * 255)  # as long as a name may be
    write_atomically(long, "x")
    assert sorted(os.listdir(tmp_path)) == ["fresh", "link", long.name, "plain"]
