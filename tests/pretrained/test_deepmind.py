"""DeepMind's layout, beside the port of the same numbers to transformers."""

import pickle
import tracemalloc

import numpy as np
import pytest

from perceiver_eqx.pretrained import deepmind, load
from perceiver_eqx.pretrained import tensors as tensors_module
from perceiver_eqx.pretrained.huggingface import Config

from .foreign import config_of, inputs_of, outputs_of, write
from .haiku import write as write_haiku
from .numbers import tensor_of
from .test_huggingface import KNOWN


# DeepMind published no text classifier.
ARCHITECTURES = [name for name in KNOWN if "Sequence" not in name]
SMALL = "PerceiverForMaskedLM"


def tensors_of(architecture):
    shapes = KNOWN[architecture]["shapes"]
    return {name: tensor_of(name, tuple(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_the_port_of_the_same_numbers_but_for_the_gelu(tmp_path, architecture):
    path, config = tmp_path / "params.pickle", Config.read(config_of(architecture))
    write_haiku(path, architecture, tensors_of(architecture))
    write(tmp_path, architecture, KNOWN[architecture]["shapes"])
    inputs = inputs_of(architecture)
    port = outputs_of(load(tmp_path), inputs)
    exact = outputs_of(deepmind.load(path, config, tanh_gelu=False), inputs)
    assert np.array_equal(exact, port)
    difference = np.abs(outputs_of(deepmind.load(path, config), inputs) - port).max()
    assert 0 < difference < 0.02 * np.abs(port).max()


@pytest.mark.parametrize("protocol", [0, 2, 3, 5])
def test_pickles_of_any_age_are_read(tmp_path, protocol):
    path, tensors = tmp_path / "params.pickle", tensors_of(SMALL)
    write_haiku(path, SMALL, tensors, protocol)
    found = deepmind.read(path)
    table = tensors["perceiver.input_preprocessor.embeddings.weight"]
    assert np.array_equal(found["embed/embeddings"].read(), table)
    path.write_bytes(pickle.dumps({"m": {"x": np.asfortranarray(table)}}, protocol))
    assert np.array_equal(deepmind.read(path)["m/x"].read(), table)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def test_what_is_no_array_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "params.pickle", tmp_path / "marker"
    whole = pickle.dumps({"m": {"x": np.ones(100, np.float32)}})
    contents = {
        "asks for": pickle.dumps({"m": {"x": Evil(marker)}}),
        "str and no array": pickle.dumps({"m": {"x": "y"}}),
        "Nothing in it was run": whole[:-50],
        "has no attribute 'items'": pickle.dumps({"m": 3}),
        "has 400 bytes": whole.replace(b"Kd\x85", b"Ke\x85"),
    }
    for told, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=told):
            deepmind.read(path)
    assert not marker.exists()


PAIRS = b"2\x86" * 40  # each of two of the last: 2^40 leaves
HOSTILE = {
    "a deep key": b"\x80\x02}K\x01" + b"\x85" * 20_000 + b"K\x02s.",
    "a wide key": b"\x80\x02}K\x01" + PAIRS + b"K\x02s.",
    "many bytes of one text": b"\x80\x02c_codecs\nencode\nq\x00X"
    + (10**6).to_bytes(4, "little")
    + b"x" * 10**6
    + b"\x85q\x01"
    + b"h\x00h\x01R" * 500
    + b".",
    "bytes of a number": b"\x80\x02cnumpy.core.numeric\n_frombuffer\n("
    b"J\x00\x00\x00\x7fNNX\x01\x00\x00\x00CtR.",
    "a state for a class": b"\x80\x02cnumpy\ndtype\n}X\x04\x00\x00\x00nameK\x01sb.",
    "too many lists": b"\x80\x02" + b"]" * 2_000 + b".",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_take_all_time_or_memory_is_refused(tmp_path, monkeypatch, name):
    if name == "too many lists":
        monkeypatch.setattr(tensors_module, "MOST_OPCODES", 1_000)
    path = tmp_path / "params.pickle"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    with pytest.raises(ValueError, match="Nothing in it was run"):
        deepmind.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20
    assert not hasattr(deepmind._DType, "name")


def test_an_unknown_name_or_no_file_is_refused(tmp_path):
    path = tmp_path / "params.pickle"
    write_haiku(path, SMALL, tensors_of(SMALL))
    with pytest.raises(ValueError, match=r"one of \['image-conv', .* got 'bert'"):
        deepmind.load(path, "bert")
    with pytest.raises(ValueError, match="does not hold the tensors"):
        deepmind.load(path, "language")
    with pytest.raises(ValueError, match=r"to `pretrained.deepmind.load`"):
        load(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        deepmind.load(tmp_path / "none.pickle", "language")


@pytest.mark.parametrize("name", deepmind.PUBLISHED)
def test_a_published_configuration_is_of_a_model(name):
    config = deepmind.PUBLISHED[name]
    assert len(deepmind.places_of(config)) > 100
