"""A reader of weights files in the format of PyTorch before 1.6, without PyTorch."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
# What unpickling raises for bytes that are not tensors.
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError
)  # fmt: skip


def read_torch_weights(path: str | Path) -> dict[str, NDArray]:
    """Read a state dict of float and integer tensors.

    A pickle can run any code. This reader accepts tensors only, and refuses any other name without importing it.

    Args:
        path: Path of a `.pth` file in PyTorch's legacy format: pickles of a magic number, the protocol, the system, the
            tensors and the keys of their storages; then each storage as a 64-bit count and its numbers.

    Returns:
        Dict from a tensor's name to its array, in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is something else, is cut short, or holds more than tensors.
    """
    with Path(path).open("rb") as file:
        try:
            if file.peek(2)[:2] == b"PK":
                raise ValueError(
                    "it is the zip file of PyTorch 1.6 and later, to be saved with _use_new_zipfile_serialization=False"
                )
            if _TensorsOnly(file).load() != _MAGIC:
                raise ValueError("it does not begin with their magic number")
            _protocol, _system = _TensorsOnly(file).load(), _TensorsOnly(file).load()
            tensors = _TensorsOnly(file).load()
            keys = _TensorsOnly(file).load()
            kinds = {key: kind for (_, kind, key, *_), *_ in tensors.values()}
            storages = {key: _read_storage(file, kinds[key]) for key in keys}
            return {name: _view(storages, tensor) for name, tensor in tensors.items()}
        except _BROKEN as error:
            raise ValueError(
                f"Expected weights in PyTorch's legacy format, found something else ({error}): {path}"
            ) from error


class _TensorsOnly(pickle.Unpickler):
    """Unpickles an ordered dict of descriptions of tensors: `(storage, offset, shape, strides)`."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor")

    def persistent_load(self, storage):
        return storage


def _read_storage(file, kind):
    (count,) = np.frombuffer(file.read(8), "<i8")
    there = (os.fstat(file.fileno()).st_size - file.tell()) // kind.itemsize
    if not 0 <= count <= there:
        raise ValueError(f"it ends after {there} of {count} numbers")
    return np.frombuffer(file.read(int(count) * kind.itemsize), kind)


def _view(storages, tensor):
    (_, kind, key, *_), offset, shape, strides = tensor
    in_bytes = [stride * kind.itemsize for stride in strides]
    return np.ndarray(shape, kind, storages[key], offset * kind.itemsize, in_bytes)
