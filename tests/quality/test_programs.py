"""The compiled programs of a row, on one device and on two."""

import jax
import jax.random as jr
import numpy as np
import pytest

from tests.benchmarks.quality.programs import compile_row
from tests.benchmarks.quality.rows import find_row

from ..helpers import assert_close


ROW = "tiny-transformer:num_layers=1,dim=16,context=32"


def test_two_devices_train_and_score_as_one_does():
    batches = np.random.default_rng(0).integers(0, 9, (4, 4, 32), np.uint8)
    found = []
    for devices in (1, 2):
        row = find_row(f"{ROW},batch_bytes=128,devices={devices}")
        programs = compile_row(row, "adamw")
        carried, bits = programs.init(jr.key(0)), []
        for number, batch in enumerate(batches):
            step = np.int32(number), np.int32(8), np.float32(1e-2), jr.key(1)
            carried, mean = programs.step(carried, batch, *step)
            bits.append(mean)
        scores = programs.score(carried, batches[0])
        of_model = jax.vmap(programs.model_of(carried).bits)(batches[0])
        assert_close(np.asarray(scores), np.asarray(of_model))
        found.append((np.asarray(bits), np.asarray(scores)))
    (bits, scores), (bits_of_two, scores_of_two) = found
    assert bits[0] - bits[-1] > 0.1
    np.testing.assert_allclose(bits_of_two, bits, rtol=1e-4)
    np.testing.assert_allclose(scores_of_two, scores, rtol=1e-2)


@pytest.mark.parametrize(
    ("changes", "words"), [("devices=99", "devices"), ("devices=2", "batch_bytes")]
)
def test_devices_that_are_not_here_or_have_no_row_are_refused(changes, words):
    with pytest.raises(ValueError, match=f"`{words}`"):
        compile_row(find_row(f"{ROW},batch_bytes=32,{changes}"), "adamw")
