"""Checkpoints: nested state, such as `state_dict()` gives, in a safetensors file that is checked before it is used.

The arrays are the file's tensors. Its metadata has the structure around them as JSON, and the SHA-256 of the whole
file with zeros in place of that digest. Nothing in a file is run, and no name in it is taken for a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from .files import write_atomically
from .names import printable
from .tensor import Tensor

Path: TypeAlias = str | os.PathLike[str]
Arrays: TypeAlias = dict[str, NDArray[Any]]

_deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize  # which has no types
_STRUCTURE, _DIGEST = "autograd_geo", "sha256"
_ZEROS = "0" * 64
_DEEPEST = 64  # containers inside each other
_DTYPES = {
    "BOOL": "bool", "U8": "u1", "U16": "u2", "U32": "u4", "U64": "u8", "I8": "i1", "I16": "i2", "I32": "i4",
    "I64": "i8", "F16": "f2", "F32": "f4", "F64": "f8",
}  # fmt: skip
_STORED = {np.dtype(code) for code in _DTYPES.values()}


class CheckpointError(ValueError):
    """A file that is no intact checkpoint; the message names the file and the fault."""


def save(path: Path, state: Any) -> None:
    """Write dicts, lists and tuples of tensors, arrays, numbers, texts, booleans and None to a safetensors file.

    `load` gives them back, tensors and NumPy scalars as arrays. Other programs that read safetensors see the arrays
    by dotted name, complex ones as real with a last axis of 2. The file appears whole or not at all. Raises TypeError
    for anything else in the state, ValueError for containers nested more than 64 deep, OSError where it cannot be
    written; then the file is as it was.
    """
    arrays: Arrays = {}
    structure = json.dumps(_packed(state, (), arrays), allow_nan=False)
    content = safetensors.numpy.save(arrays, {_STRUCTURE: structure, _DIGEST: _ZEROS})
    write_atomically(path, content.replace(_field(_ZEROS), _field(hashlib.sha256(content).hexdigest()), 1))


def load(path: Path) -> Any:
    """The state that `save` wrote.

    Raises CheckpointError for a file that is not exactly what `save` wrote, OSError for one that cannot be read.
    """
    with open(path, "rb", opener=_opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CheckpointError(f"{_shown(path)}: is no regular file")
        content = file.read()
    return read(content, _shown(path))


def read(content: bytes, source: str = "checkpoint") -> Any:
    """The state in the bytes of a checkpoint; `source` begins the messages. Raises CheckpointError."""

    def refuse(reason: str) -> NoReturn:
        raise CheckpointError(f"{source}: {printable(reason)}; nothing was loaded")

    metadata = _header(content, refuse).get("__metadata__")
    if not isinstance(metadata, dict) or metadata.keys() != {_STRUCTURE, _DIGEST}:
        refuse("was not written by autograd_geo.save (for other safetensors files, use safetensors.numpy.load_file)")
    digest, structure = metadata[_DIGEST], metadata[_STRUCTURE]
    if not isinstance(digest, str) or not isinstance(structure, str):
        refuse("its metadata are not text")
    if hashlib.sha256(content.replace(_field(digest), _field(_ZEROS), 1)).hexdigest() != digest:
        refuse("its checksum does not fit its content: the file is damaged")
    try:
        arrays = {name: _array(name, view, refuse) for name, view in _deserialize(content)}
    except safetensors.SafetensorError as error:
        refuse(f"is no valid safetensors file ({error})")
    state = _unpacked(_json(structure, "its structure", refuse), arrays, 0, refuse)
    if arrays:
        refuse(f"has arrays that its structure does not name: {_some(arrays)}")
    return state


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a named pipe would wait for its writer


def _shown(path: Path) -> str:
    return printable(os.fsdecode(path))


def _some(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(name[:40]) for name in list(names)[:3])


def _field(digest: str) -> bytes:
    # Quotes inside a text of the header are escaped, so this stands only where the digest does.
    return f'"{_DIGEST}":"{digest}"'.encode(errors="surrogatepass")


# --- write ----------------------------------------------------------------------------------------------------


def _packed(value: Any, path: tuple[str, ...], arrays: Arrays) -> Any:
    """What JSON can say of a value: objects have one key, the kind; the arrays are put into `arrays`."""
    where = ".".join(path) or "the state"
    if len(path) > _DEEPEST:
        raise ValueError(f"save: containers are nested more than {_DEEPEST} deep at {where:.80}")
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [_packed(item, (*path, str(n)), arrays) for n, item in enumerate(value)]
        return items if type(value) is list else {"tuple": items}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"save: the keys of a dict are texts, but {where} has {key!r:.80}")
        return {"dict": {key: _packed(item, (*path, key), arrays) for key, item in value.items()}}
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, np.ndarray | np.generic | complex):
        raise TypeError(f"save: {where} is a {type(value).__name__}; give arrays, tensors, numbers, texts or None")
    array = np.asarray(value)
    complexes = array.dtype.kind == "c"
    if complexes:
        array = np.stack([array.real, array.imag], axis=-1)
    array = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    if array.dtype not in _STORED:
        raise TypeError(f"save: {where} has dtype {np.asarray(value).dtype}, which a safetensors file cannot hold")
    name = ".".join(path) or "value"
    while name in arrays or name == "__metadata__":  # {"a.b": x, "a": {"b": y}}
        name += "'"
    arrays[name] = array
    return {"complex" if complexes else "array": name}


# --- read -----------------------------------------------------------------------------------------------------


def _header(content: bytes, refuse: Callable[[str], NoReturn]) -> dict[str, Any]:
    if len(content) < 8:
        refuse(f"is too short for a checkpoint: {len(content)} bytes")
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        refuse(f"is truncated or no checkpoint: its header should have {length} bytes, {len(content) - 8} follow")
    try:
        text = content[8 : 8 + length].decode()
    except UnicodeDecodeError:
        refuse("its header is not UTF-8")
    header = _json(text, "its header", refuse)
    if not isinstance(header, dict):
        refuse("its header is no JSON object")
    return header


def _json(text: str, what: str, refuse: Callable[[str], NoReturn]) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            refuse(f"{what} has a key twice")
        return found

    def constant(name: str) -> NoReturn:
        refuse(f"{what} holds {name}")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except CheckpointError:
        raise
    except RecursionError:
        refuse(f"{what} is nested too deeply")
    except ValueError as error:
        refuse(f"{what} is not JSON ({error!s:.80})")


def _array(name: str, view: Mapping[str, Any], refuse: Callable[[str], NoReturn]) -> NDArray[Any]:
    if view["dtype"] not in _DTYPES:
        refuse(f"array {name[:40]!r} has dtype {view['dtype']}")
    try:
        # Copied: the caller may write into what is loaded.
        return np.frombuffer(view["data"], np.dtype(_DTYPES[view["dtype"]])).reshape(view["shape"]).copy()
    except (ValueError, OverflowError) as error:  # NumPy has fewer axes and smaller sizes than the format
        refuse(f"array {name[:40]!r} cannot be made ({error!s:.80})")


def _unpacked(item: Any, arrays: Arrays, depth: int, refuse: Callable[[str], NoReturn]) -> Any:
    """The value; its arrays are taken out of `arrays`."""

    def inner(item: Any) -> Any:
        return _unpacked(item, arrays, depth + 1, refuse)

    if depth > 2 * _DEEPEST:  # a tuple is a list in an object
        refuse("its structure is nested too deeply")
    match item:
        case None | bool() | int() | str():
            return item
        case float() if math.isfinite(item):
            return item
        case list():
            return [inner(x) for x in item]
        case {"tuple": list(items), **rest} if not rest:
            return tuple([inner(x) for x in items])
        case {"dict": dict(items), **rest} if not rest:
            return {key: inner(x) for key, x in items.items()}
        case {"float": "nan" | "inf" | "-inf" as text, **rest} if not rest:
            return float(text)
        case {"array": str(name), **rest} if not rest and name in arrays:
            return arrays.pop(name)
        case {"complex": str(name), **rest} if not rest and name in arrays:
            pairs = arrays.pop(name)
            if pairs.dtype.name in ("float32", "float64") and pairs.shape[-1:] == (2,):
                return pairs.view({"float32": np.complex64, "float64": np.complex128}[pairs.dtype.name])[..., 0]
    refuse(f"its structure holds {json.dumps(item)[:80]}, which save never writes")
