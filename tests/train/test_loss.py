import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.helpers import assert_close, assert_gradients_close
from tests.models import STEPS, TOKENS, byte_inputs, byte_lm
from train.loss import batch_bits, sequence_bits


LENGTH = STEPS * TOKENS


@eqx.filter_jit
@eqx.filter_value_and_grad
def bits(model, data, length, context, chunk_steps, key=None):
    return sequence_bits(model, data, length, context, chunk_steps=chunk_steps, key=key)


@eqx.filter_jit
@eqx.filter_value_and_grad
def bits_of_all_logits(model, data, length, context):
    """The loss from the logits of the whole sequence, held at once."""
    tokens = data.reshape(STEPS, TOKENS)
    log_probabilities = jax.nn.log_softmax(model(tokens, context).reshape(-1, 256))
    chosen = log_probabilities[jnp.arange(LENGTH), data]
    return -jnp.sum(chosen * (jnp.arange(LENGTH) < length)) / jnp.log(2.0)


@pytest.mark.parametrize(
    ("window", "chunk_steps", "ungrouped"), [(None, 4, 32), (3, 1, 32), (3, 2, 2)]
)
def test_in_any_chunks_loss_and_gradients_are_those_of_the_whole(
    window, chunk_steps, ungrouped, monkeypatch
):
    """Chunks of one step, a ragged last chunk, a padded group; with a context, and a
    length short of the end. In float64: in float32, rounding alone may be more than the
    tolerance."""
    monkeypatch.setattr("train.loss.UNGROUPED_CHUNKS", ungrouped)
    with jax.enable_x64(True):
        model = byte_lm(window, True, num_layers=1, dtype="float64")
        tokens, source = byte_inputs(0)
        data, length = tokens.ravel().astype(jnp.uint8), jnp.array(LENGTH - 4)
        arguments = model, data, length, source
        value, gradients = bits(*arguments, chunk_steps)
        expected, expected_gradients = bits_of_all_logits(*arguments)
        assert_close(value, expected, "float64")
        assert_gradients_close(gradients, expected_gradients)


def test_float64_goes_through_chunks_too():
    with jax.enable_x64(True):
        model = byte_lm(3, num_layers=1, dtype="float64")
        data, length = byte_inputs(0)[0].ravel(), jnp.array(LENGTH)
        whole, chunks = (
            eqx.filter_jit(sequence_bits)(model, data, length, chunk_steps=steps)
            for steps in (STEPS, 4)
        )
        assert chunks.dtype == jnp.float64
        assert_close(chunks, whole, "float64")


def test_bytes_past_the_length_do_not_count():
    model = byte_lm(3, num_layers=1)
    data = byte_inputs(0)[0].ravel()
    length = jnp.array(10)
    one, _ = bits(model, data, length, None, 4)
    other, _ = bits(model, data.at[10:].set(0), length, None, 4)
    assert one == other
    whole, too_long = (
        bits(model, data, jnp.array(n), None, 4)[0] for n in (data.size, 999)
    )
    assert whole == too_long
    nothing, gradients = bits(model, data, jnp.array(0), None, 4)
    assert nothing == 0
    assert all(np.all(g == 0) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("cut", "chunk_steps", "message"),
    [(0, 0, "`chunk_steps` must be at least 1"), (1, 4, "`window_bytes` must be a")],
)
def test_bad_chunks_are_refused_by_name(cut, chunk_steps, message):
    data = byte_inputs(0)[0].ravel()
    with pytest.raises(ValueError, match=message):
        sequence_bits(byte_lm(3), data[cut:], jnp.array(5), chunk_steps=chunk_steps)


def test_a_batch_sums_its_sequences():
    model = byte_lm(3, num_layers=1)
    rows = [byte_inputs(seed)[0].ravel() for seed in (0, 1)]
    batch = {"bytes": jnp.stack(rows), "length": jnp.array([LENGTH, 7])}
    total, num_bytes = eqx.filter_jit(batch_bits)(model, batch, None, chunk_steps=4)
    apart = [
        bits(model, row, jnp.array(n), None, 4)[0]
        for row, n in zip(rows, (LENGTH, 7), strict=True)
    ]
    assert_close(total, sum(apart))
    assert int(num_bytes) == LENGTH + 7


def test_dropout_follows_the_key():
    model = byte_lm(3, num_layers=1, dropout=0.5)
    data, length = byte_inputs(0)[0].ravel(), jnp.array(LENGTH)
    one, again, other = (
        bits(model, data, length, None, 4, jr.key(seed))[0] for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other
