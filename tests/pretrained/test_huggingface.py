"""Models of transformers, by what it once gave for them: `tests/parity` compares with
the real one, and holds `huggingface.json` to it."""

import json

import equinox as eqx
import pytest

from perceiver_eqx.pretrained import huggingface, load

from .foreign import EXPECTED, assert_equal, config_of, inputs_of, outputs_of, write


KNOWN = json.loads(EXPECTED.read_text())


def loaded(tmp_path, architecture):
    write(tmp_path, architecture, KNOWN[architecture]["shapes"])
    return load(tmp_path)


@pytest.mark.parametrize("architecture", KNOWN)
def test_a_model_gives_what_it_gave_in_transformers(tmp_path, architecture):
    task = loaded(tmp_path, architecture)
    found = outputs_of(task, inputs_of(architecture))
    known = KNOWN[architecture]
    assert_equal(architecture, found[:: known["every"]], known["outputs"])


def test_all_seven_are_known():
    assert set(KNOWN) == set(huggingface.ARCHITECTURES)


@pytest.mark.parametrize("architecture", KNOWN)
def test_a_model_written_out_is_the_same_file(tmp_path, architecture):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    task = loaded(one, architecture)
    huggingface.save(other, task, config_of(architecture))
    again = load(other)
    assert eqx.tree_equal(task, again)
