import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import SOURCE, TOKENS, byte_lm
from train.accuracy import accuracy
from train.data.synthetic import is_value


def batch(data, lengths):
    return {
        "bytes": data,
        "length": np.asarray(lengths),
        "context": np.zeros((len(data), SOURCE), np.uint8),
        "context_length": np.full(len(data), SOURCE, np.int32),
    }


def test_it_is_the_share_of_the_likeliest_bytes_that_are_right():
    """Of two sequences, one said right all through and one but for its last byte."""
    model, steps = byte_lm(3, True), 2
    run, size = eqx.filter_jit(model), steps * TOKENS
    data = np.zeros((2, size), np.uint8)
    for place in range(size):
        for row in data:
            tokens = jnp.asarray(row).reshape(steps, TOKENS)
            logits = run(tokens, jnp.zeros(SOURCE, jnp.uint8))
            row[place] = logits.reshape(size, 256)[place].argmax()
    data[1, -1] += 1
    found = accuracy(model, [batch(data, [size, size])])
    assert found == ((2 * size - 1) / (2 * size), 0.5, 2)
    # What does not count, or is no byte of a sequence, is not looked at.
    found = accuracy(model, [batch(data, [size, size - 1]), batch(data, [0, 0])])
    assert found == (1.0, 1.0, 2)
    found = accuracy(model, [batch(data, [size, size])], lambda n: np.arange(n) < 2)
    assert found == (1.0, 1.0, 2)
    with pytest.raises(ValueError, match="at least one byte that counts"):
        accuracy(model, [batch(data, [size, size])], is_value)
