import pickle
import struct
import zipfile

import numpy as np
import pytest

from busseg.models.torch_weights import read_torch_weights

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


# === A file as PyTorch writes it, made by hand ===
def pickled(value):
    """What pushes a value, without the pickle's head of two bytes and its full stop."""
    return pickle.dumps(value, 2)[2:-1]


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def called(function, arguments):
    return function + b"(" + arguments + b"tR"


def described(kind, key, count, offset, shape, strides):
    """A tensor: a view of a storage, which stands elsewhere in the file."""
    storage = pickled("storage") + named("torch", kind) + pickled(key) + pickled("cpu") + pickled(count) + pickled(None)
    view = pickled(offset) + pickled(shape) + pickled(strides) + pickled(False)
    hooks = called(named("collections", "OrderedDict"), b"")
    return called(named("torch._utils", "_rebuild_tensor_v2"), b"(" + storage + b"tQ" + view + hooks)


def state_dict(tensors):
    pairs = b"".join(pickled(name) + tensor for name, tensor in tensors.items())
    return b"\x80\x02" + called(named("collections", "OrderedDict"), b"") + b"(" + pairs + b"u."


def stored(numbers):
    return struct.pack("<q", len(numbers)) + numbers.tobytes()


def legacy_file(path, tensors, storages):
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, SYSTEM))
    numbers = b"".join(stored(numbers) for numbers in storages.values())
    path.write_bytes(head + state_dict(tensors) + pickle.dumps(list(storages), 2) + numbers)
    return path


FLOATS, LONGS = np.arange(12, dtype="<f4") / 4, np.array([7, -(2**40)], "<i8")
STORAGES = {"941": FLOATS, "942": LONGS}
TENSORS = {
    "whole": described("FloatStorage", "941", 12, 0, (2, 3, 2), (6, 2, 1)),
    "turned": described("FloatStorage", "941", 12, 0, (3, 4), (1, 3)),
    "part": described("FloatStorage", "941", 12, 5, (2,), (3,)),
    "steps": described("LongStorage", "942", 2, 1, (), ()),
    "empty": described("FloatStorage", "941", 12, 0, (0, 3), (3, 1)),
}


@pytest.fixture
def whole_file(tmp_path):
    return legacy_file(tmp_path / "weights.pth", TENSORS, STORAGES)


# === Reading ===
def test_tensors_are_read_by_name_in_the_files_order(whole_file):
    tensors = read_torch_weights(whole_file)
    assert list(tensors) == list(TENSORS)
    expected = {
        "whole": FLOATS.reshape(2, 3, 2),
        "turned": FLOATS.reshape(4, 3).T,  # strides of 1 and 3 numbers: columns stand together
        "part": FLOATS[[5, 8]],  # from the sixth number, every third
        "steps": np.int64(-(2**40)),  # a number by itself
        "empty": np.empty((0, 3)),
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(tensors[name], values, strict=name != "empty", err_msg=name)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        name: np.int64 if name == "steps" else np.float32 for name in TENSORS
    }


def test_path_may_be_text(whole_file):
    assert read_torch_weights(str(whole_file)).keys() == TENSORS.keys()


def test_storages_are_distinguished_by_their_keys(tmp_path):
    tensors = {f"tensor{key}": described("FloatStorage", key, 1, 0, (1,), (1,)) for key in "abc"}
    storages = {key: np.float32([number]) for number, key in enumerate("cab")}
    found = read_torch_weights(legacy_file(tmp_path / "weights.pth", tensors, storages))
    assert {name: float(tensor[0]) for name, tensor in found.items()} == {"tensora": 1, "tensorb": 2, "tensorc": 0}


# === Refused ===
REFUSED = r"^Expected weights in PyTorch's legacy format, found something else \(.+\): .*weights\.pth$"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        read_torch_weights(tmp_path / "gone.pth")


def test_file_cut_short_anywhere_is_refused(whole_file):
    content = whole_file.read_bytes()
    for length in range(0, len(content), 7):
        whole_file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=REFUSED):
            read_torch_weights(whole_file)


def test_storage_cut_short_is_found_by_its_count(whole_file):
    whole_file.write_bytes(whole_file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"\(it ends after 1 of 2 numbers\)"):
        read_torch_weights(whole_file)


@pytest.mark.parametrize("count", [3, 2**31, 2**62, -1])
def test_storage_of_a_wrong_count_is_refused(whole_file, count):
    content = whole_file.read_bytes()
    longs = 8 + LONGS.nbytes  # the last storage: its count, then its numbers
    whole_file.write_bytes(content[:-longs] + struct.pack("<q", count) + content[-longs + 8 :])
    with pytest.raises(ValueError, match=REFUSED):
        read_torch_weights(whole_file)


@pytest.mark.parametrize(
    "tensor",
    [
        described("FloatStorage", "941", 12, 0, (13,), (1,)),  # one number more than there are
        described("FloatStorage", "941", 12, 11, (2,), (1,)),
        described("FloatStorage", "941", 12, -1, (2,), (1,)),
        described("FloatStorage", "941", 12, 0, (2, 2), (100, 1)),
        described("FloatStorage", "941", 12, 0, (3,), (-1,)),
        described("FloatStorage", "943", 12, 0, (1,), (1,)),  # no such storage
        described("FloatStorage", "941", 12, 0, "shape", "strides"),
        pickled("no tensor"),
    ],
)
def test_tensor_beyond_its_storage_is_refused(tmp_path, tensor):
    path = legacy_file(tmp_path / "weights.pth", {"wrong": tensor}, STORAGES)
    with pytest.raises(ValueError, match=REFUSED):
        read_torch_weights(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", pickle.dumps({"a": 1}), pickle.dumps(MAGIC, 2), bytes(range(256))]
)
def test_something_else_is_refused(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=REFUSED):
        read_torch_weights(tmp_path / "weights.pth")


def test_newer_format_is_named_with_the_fix(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as file:
        file.writestr("archive/data.pkl", state_dict({}))
    with pytest.raises(ValueError, match=REFUSED) as error:
        read_torch_weights(tmp_path / "weights.pth")
    assert "zip" in str(error.value)
    assert "_use_new_zipfile_serialization=False" in str(error.value)


# === No code is run ===
def ordering(module, name, argument):
    """A pickle that orders whoever reads it to call a function of a module."""
    return b"\x80\x02" + called(named(module, name), pickled(argument)) + b"."


@pytest.mark.parametrize("place", range(5))
def test_code_in_any_of_the_pickles_is_refused_and_not_run(tmp_path, place):
    pickles = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, SYSTEM)]
    pickles += [state_dict({}), pickle.dumps([], 2)]
    pickles[place] = ordering("os", "mkdir", str(tmp_path / "made"))
    (tmp_path / "weights.pth").write_bytes(b"".join(pickles))
    pickle.loads(pickles[place])  # as it stands, the order is carried out
    (tmp_path / "made").rmdir()

    with pytest.raises(ValueError, match=r"\(it names os\.mkdir, which is no tensor\): .*weights\.pth$"):
        read_torch_weights(tmp_path / "weights.pth")

    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("__builtin__", "eval"),  # its name in Python 2, which pickle translates
        ("torch", "load"),
        ("torch", "FloatStorage.from_file"),
        ("torch._utils", "_import_dotted_name"),
        ("collections", "defaultdict"),
        ("numpy", "load"),
    ],
)
def test_no_other_name_is_looked_up(tmp_path, module, name):
    path = legacy_file(tmp_path / "weights.pth", {"wrong": called(named(module, name), pickled("1"))}, {})
    with pytest.raises(ValueError, match=r"\(it names .*, which is no tensor\)"):
        read_torch_weights(path)
