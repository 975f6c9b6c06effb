import json

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.flax import load_file, save_file

from perceiver_eqx import PerceiverAR
from perceiver_eqx.pretrained import load, save
from tests.models import byte_inputs, byte_lm


FORMAT = "perceiver_eqx.ByteLM"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, byte_lm(3, True, num_layers=1))
    return path


def rewritten(path, change=None, header=None):
    arrays = load_file(path)
    with safe_open(path, framework="numpy") as file:
        metadata = header or dict(file.metadata())
    if change is not None:
        change(arrays)
    save_file(arrays, path, metadata=metadata)


def test_a_model_comes_back_to_the_bit(file):
    model = byte_lm(3, True, num_layers=1)
    again = load(file)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    for one, other in zip(
        *(jax.tree.leaves(eqx.filter(m, eqx.is_array)) for m in (again, model)),
        strict=True,
    ):
        assert np.array_equal(one, other)
    tokens, source = byte_inputs(0)
    run = eqx.filter_jit(lambda model: model(tokens, source))
    assert np.array_equal(run(again), run(model))


def test_a_perceiver_ar_comes_back_to_the_bit(tmp_path):
    path = tmp_path / "model.safetensors"
    model = PerceiverAR(
        9,
        max_symbols=8,
        max_latents=4,
        dim=8,
        num_layers=2,
        num_heads=2,
        rotary_layers=1,
        key=jr.key(0),
    )
    save(path, model)
    assert eqx.tree_equal(load(path), model, typematch=True)


def test_the_header_is_readable_json(file):
    with safe_open(file, framework="numpy") as opened:
        header = opened.metadata()
    assert json.loads(header[FORMAT])["latent_window"] == 3
    assert list(file.parent.iterdir()) == [file]


def test_a_file_from_before_an_argument_is_read_as_it_was(tmp_path):
    path, model = tmp_path / "model.safetensors", byte_lm(3, num_layers=1, local_conv=0)
    save(path, model)
    arguments = model.hyperparameters
    del arguments["local_conv"]
    rewritten(path, header={FORMAT: json.dumps(arguments)})
    assert jax.tree.structure(load(path)) == jax.tree.structure(model)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file at"):
        load(tmp_path / "none")


def test_what_is_no_model_is_refused_by_the_files_name(file):
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="model.safetensors' is not a whole"):
        load(file)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"other": "{}"}, r"must describe one of .* found \['other'\]"),
        ({FORMAT: "{"}, "does not describe a model"),
        ({FORMAT: '{"latent_dim": 8}'}, "does not describe a model"),
    ],
)
def test_a_header_of_another_kind_is_refused(file, header, message):
    rewritten(file, header=header)
    with pytest.raises(ValueError, match=message):
        load(file)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    model = byte_lm(3, num_layers=1)
    half = eqx.tree_at(
        lambda m: m.perceiver.encoder.latents, model, replace_fn=lambda x: x[:1]
    )
    with pytest.raises(ValueError, match=rf"`model` must hold .* under '{NAME}'"):
        save(tmp_path / "model", half)
    with pytest.raises(FileNotFoundError, match="`path` must lie in a folder that"):
        save(tmp_path / "missing" / "model", model)
    with pytest.raises(IsADirectoryError, match="`path` must be a file"):
        save(tmp_path, model)
    assert list(tmp_path.iterdir()) == []


NAME = "perceiver.encoder.latents"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(NAME), rf"must hold .* under '{NAME}', .* found nothing"),
        (lambda a: a.update(more=a[NAME]), "must hold nothing under 'more'"),
        (lambda a: a.update({NAME: a[NAME][:1]}), r"found \(\(1, 8\), 'F32'\)"),
        (lambda a: a.update({NAME: a[NAME].astype("float16")}), "'F16'"),
    ],
)
def test_arrays_that_are_not_the_models_are_named(file, change, message):
    rewritten(file, change)
    with pytest.raises(ValueError, match=message):
        load(file)
