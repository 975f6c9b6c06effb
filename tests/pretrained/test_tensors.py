"""Hostile and damaged files: refused, nothing run, nothing allocated."""

import io
import json
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from hashlib import sha256

import equinox as eqx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from perceiver_eqx.pretrained import load
from perceiver_eqx.pretrained.tensors import MOST_PICKLED, open_tensors

from .foreign import write
from .test_huggingface import KNOWN, loaded


SMALL = "PerceiverForSequenceClassification"


@pytest.fixture
def torch(monkeypatch):
    """As much of PyTorch as a pickle names."""
    fake, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise AssertionError("run")

    class FloatStorage:
        pass

    _rebuild_tensor_v2.__module__, FloatStorage.__module__ = "torch._utils", "torch"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    FloatStorage.__qualname__ = "FloatStorage"
    utils._rebuild_tensor_v2, fake.FloatStorage = _rebuild_tensor_v2, FloatStorage
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return fake


class Described:
    """A tensor that pickles as PyTorch's do."""

    def __init__(self, storage, shape, strides, offset=0):
        self.parts = storage, offset, shape, strides, False, OrderedDict()

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


class Storage:
    def __init__(self, key, size):
        self.key, self.size = key, size


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind = sys.modules["torch"].FloatStorage
            return "storage", kind, obj.key, "cpu", obj.size
        return None


def pickled(obj) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(obj)
    return file.getvalue()


def zipped(path, description: bytes, compression=zipfile.ZIP_STORED, **storages):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", description)
        for key, content in storages.items():
            file.writestr(f"archive/data/{key}", content)
    return path


def test_a_file_of_torch_is_read_with_its_strides(tmp_path, torch):
    numbers = np.arange(8, dtype=np.float32)
    tensors = OrderedDict(
        whole=Described(Storage("0", 8), (2, 3), (1, 2), 1),
        empty=Described(Storage("0", 8), (0, 3), (3, 1)),
        single=Described(Storage("0", 8), (), (), 7),
    )
    path = zipped(tmp_path / "x.bin", pickled(tensors), **{"0": numbers.tobytes()})
    found = open_tensors(path)
    assert found["whole"].shape == (2, 3)
    assert found["whole"].dtype == "float32"
    assert np.array_equal(found["whole"].read(), [[1, 3, 5], [2, 4, 6]])
    assert found["empty"].read().shape == (0, 3)
    assert found["single"].read() == 7


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def hostile_pickles(marker) -> dict[str, bytes]:
    vast = Described(Storage("0", 4), (10**15,), (1,))
    return {
        "runs code": pickled({"x": Evil(marker)}),
        "runs code of the system": f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode(),
        "names a class of ours": b"cperceiver_eqx.pretrained.native\nload\n(S'x'\ntR.",
        "remembers at place 4 billion": b"]r\xff\xff\xff\xff.",
        "is a string of 10^18 bytes": b"\x8d" + struct.pack("<Q", 10**18) + b".",
        "ends early": pickled({"x": 1})[:-3],
        "is nothing": b"",
        "describes a list": pickled([1, 2]),
        "describes numbers": pickled({"x": 3}),
        "describes 10^15 numbers of 4": pickled({"x": vast}),
        "describes 8 numbers of 4": pickled(
            {"x": Described(Storage("0", 4), (8,), (1,))}
        ),
        "looks behind its storage": pickled(
            {"x": Described(Storage("0", 4), (2,), (100,))}
        ),
        "looks before its storage": pickled(
            {"x": Described(Storage("0", 4), (1,), (1,), -1)}
        ),
        "goes back": pickled({"x": Described(Storage("0", 4), (2,), (-1,), 1)}),
        "names another file": pickled({"x": Described(Storage("../1", 4), (1,), (1,))}),
        "is too long": b"." * (MOST_PICKLED + 1),
        "has a key of nested tuples": b"}K\x01" + b"\x85" * 20_000 + b"K\x02s.",
        "has a key of 2^40 leaves": b"}K\x01" + b"2\x86" * 40 + b"K\x02s.",
        "refers to 2^40 leaves": b"(K\x01" + b"2\x86" * 40 + b"NNNNtQ.",
        "gives a function a state": b"ctorch._utils\n_rebuild_tensor_v2\n}"
        b"X\x03\x00\x00\x00fooK\x01sb.",
        "copies a mapping": b"ccollections\nOrderedDict\n}\x85R.",
        "has a number of a megabyte": b"\x8b"
        + (10**6).to_bytes(4, "little")
        + b"\x01" * 10**6
        + b".",
        "describes more than is stored": pickled(
            {"x": Described(Storage("0", 4), (2000, 2000), (0, 0))}
        ),
    }


NAMES = [
    "runs code",
    "runs code of the system",
    "names a class of ours",
    "remembers at place 4 billion",
    "is a string of 10^18 bytes",
    "ends early",
    "is nothing",
    "describes a list",
    "describes numbers",
    "describes 10^15 numbers of 4",
    "describes 8 numbers of 4",
    "looks behind its storage",
    "looks before its storage",
    "goes back",
    "names another file",
    "is too long",
    "has a key of nested tuples",
    "has a key of 2^40 leaves",
    "refers to 2^40 leaves",
    "gives a function a state",
    "copies a mapping",
    "has a number of a megabyte",
    "describes more than is stored",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_is_refused(tmp_path, torch, name):
    marker = tmp_path / "marker"
    description = hostile_pickles(marker)[name]
    path = zipped(tmp_path / "x.bin", description, **{"0": bytes(16)})
    tracemalloc.start()
    with pytest.raises(ValueError, match="Nothing in it was run"):
        open_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not marker.exists()
    assert peak < 4 << 20


def test_many_tensors_of_one_storage_are_refused(tmp_path, torch):
    tensors = {str(i): Described(Storage("0", 9999), (9999,), (1,)) for i in range(30)}
    path = zipped(tmp_path / "x.bin", pickled(tensors), **{"0": bytes(4 * 9999)})
    with pytest.raises(ValueError, match="describes 299970 numbers, more"):
        open_tensors(path)


def test_a_zip_bomb_is_refused(tmp_path, torch):
    description = pickled({"x": Described(Storage("0", 1 << 20), (1 << 20,), (1,))})
    path = zipped(
        tmp_path / "x.bin",
        description,
        zipfile.ZIP_DEFLATED,
        **{"0": bytes(4 << 20)},
    )
    with pytest.raises(ValueError, match="is compressed"):
        open_tensors(path)


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path, torch, suffix, kept):
    path = tmp_path / f"x.{suffix}"
    if suffix == "bin":
        tensors = {"x": Described(Storage("0", 256), (256,), (1,))}
        zipped(path, pickled(tensors), **{"0": bytes(1024)})
    else:
        write(tmp_path, SMALL, KNOWN[SMALL]["shapes"])
        path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ValueError, match="not a whole"):
        open_tensors(path)


def test_a_flipped_bit_of_a_number_in_a_zip_is_refused(tmp_path, torch):
    tensors = {"x": Described(Storage("0", 4), (4,), (1,))}
    path = zipped(tmp_path / "x.bin", pickled(tensors), **{"0": b"number of bytes."})
    damaged = path.read_bytes().replace(b"number of", b"numbar of")
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="'x' in .* is damaged .* Get the file again"):
        open_tensors(path)["x"].read()


def test_a_header_of_10_to_the_15_elements_is_refused(tmp_path):
    header = {"x": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}
    told = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(told)) + told + bytes(16))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        open_tensors(path)
    path.write_bytes(struct.pack("<Q", 10**15) + told)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        open_tensors(path)


def test_a_flipped_bit_of_a_header_is_refused_or_changes_nothing(tmp_path):
    task = loaded(tmp_path, SMALL)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    rng, refused = np.random.default_rng(0), 0
    for place in [*range(8), *rng.integers(8, 8 + size, 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert eqx.tree_equal(load(tmp_path), task)
        except ValueError:
            refused += 1
    assert refused > 50


def test_a_file_of_another_hash_is_refused(tmp_path):
    write(tmp_path, SMALL, KNOWN[SMALL]["shapes"])
    path = tmp_path / "model.safetensors"
    hashes = {path.name: sha256(path.read_bytes()).hexdigest()}
    load(tmp_path, sha256=hashes)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"must have the SHA-256 .* Get it again"):
        load(tmp_path, sha256=hashes)
    with pytest.raises(ValueError, match="`sha256` must name 'model.safetensors'"):
        load(tmp_path, sha256={"../x": "00"})
    with pytest.raises(FileNotFoundError, match="there is no '../x'"):
        load(tmp_path, sha256={"../x": "00"} | hashes)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, SMALL, KNOWN[SMALL]["shapes"])
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match="symbolic link, which is not followed"):
        load(folder)


DAMAGES = {
    "missing": ("'perceiver.embeddings.latents' is missing", lambda x: None),
    "wrong shape": (
        r"'perceiver.embeddings.latents' has shape \(7, 16\), not \(6, 16\)",
        lambda x: np.zeros((7, 16), np.float32),
    ),
    "wrong dtype": (
        "'perceiver.embeddings.latents' is I32, not one of",
        lambda x: x.astype(np.int32),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, damage):
    write(tmp_path, SMALL, KNOWN[SMALL]["shapes"])
    path, name = tmp_path / "model.safetensors", "perceiver.embeddings.latents"
    tensors = load_file(path)
    told, change = DAMAGES[damage]
    changed = change(tensors.pop(name))
    save_file(tensors if changed is None else tensors | {name: changed}, path)
    with pytest.raises(ValueError, match=told):
        load(tmp_path)


def test_renamed_and_extra_tensors_are_named(tmp_path):
    write(tmp_path, SMALL, KNOWN[SMALL]["shapes"])
    path, name = tmp_path / "model.safetensors", "perceiver.embeddings.latents"
    tensors = load_file(path)
    tensors["perceiver.embedding.latents"] = tensors.pop(name)
    tensors["more"] = np.zeros(3, np.float32)
    save_file(tensors, path)
    with pytest.raises(
        ValueError,
        match="'more' is not known; 'perceiver.embedding.latents' is not known; "
        "'perceiver.embeddings.latents' is missing",
    ):
        load(tmp_path)


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"model_type": "bert"},
            "`model_type` .* must be one of .* got 'bert'",
        ),
        ({"architectures": ["BertModel"]}, "`architectures` must be one of"),
        ({"architectures": []}, "got model_type 'perceiver' and architectures"),
        ({"num_latents": 10**15}, "`num_latents` must be like 256, .* got 1000000"),
        ({"num_self_attends_per_block": 2**20}, "must be at most 1000, got 1048576"),
        ({"num_latents": "6"}, "`num_latents` must be like 256, .* got '6'"),
        ({"num_latents": 2**23}, r"has shape \(6, 16\), not \(8388608, 16\)"),
        ({"hidden_act": "relu"}, "`hidden_act` must be one of"),
        ({"cross_attention_shape_for_attention": "v"}, "must be 'q' or 'kv'"),
        ({"num_self_attention_heads": 3}, "must be a multiple of 3"),
        ({"train_size": [1, 2, 3]}, "`train_size` must be like"),
    ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path, changes, told):
    write(tmp_path, SMALL, KNOWN[SMALL]["shapes"])
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=told):
        load(tmp_path)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must be a JSON object: it is a list"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="must be a JSON object"):
        load(tmp_path)
    write(tmp_path, SMALL, KNOWN[SMALL]["shapes"])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor"):
        load(tmp_path)
