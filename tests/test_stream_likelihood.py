"""`StreamModel.log_prob`: of all streams, by chunks, of sequences filled up."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx.stream_model import _parted
from tests import oracle
from tests.helpers import assert_close, assert_gradients_close
from tests.stream_models import (
    Normal,
    Numbers,
    built,
    everything,
    for_translator,
    labeller,
    log_prob,
    of_numbers,
    some_context,
    some_numbers,
    some_streams,
    translator,
    written_out,
)


def test_its_likelihood_is_that_of_all_streams():
    model, streams = of_numbers(), some_numbers(0)
    expected = 0.0
    for name, mean in written_out(model, streams).items():
        squares = (mean.ravel() - oracle.array(streams[name]).ravel()) ** 2
        expected -= np.sum(squares + np.log(2 * np.pi)) / 2
    assert_close(log_prob(model, streams), expected)


def test_by_chunks_the_likelihood_of_every_adapter_is_that_of_the_whole():
    model, streams, context = everything(), some_streams(0), some_context(0)
    found = log_prob(model, streams, context, chunk_steps=4)
    assert_close(found, log_prob(model, streams, context))


def test_by_chunks_gradients_are_those_of_the_whole():
    model = built({"x": Numbers(1, 2)}, {"x": Normal(1, 2)}, 2, num_layers=1)
    streams = {"x": some_numbers(0)["b"]}

    def gradient(chunk_steps):
        def nats(model):
            return model.log_prob(streams, chunk_steps=chunk_steps)

        return eqx.filter_jit(eqx.filter_value_and_grad(nats))(model)

    expected = gradient(None)
    for chunk_steps in (1, 4):
        found = gradient(chunk_steps)
        assert_close(found[0], expected[0])
        assert_gradients_close(found[1], expected[1])


def test_what_is_kept_of_many_chunks_is_a_state_for_each():
    model, context = translator(), some_context(0)
    arrays, static = eqx.partition(model, eqx.is_array)

    def kept(steps, chunk_steps):
        """Bytes that the forward pass hands to the backward pass."""
        streams = for_translator(some_streams(0, steps))

        def nats(arrays):
            model = eqx.combine(arrays, static)
            return model.log_prob(streams, context, chunk_steps=chunk_steps)

        back = jax.eval_shape(lambda arrays: jax.vjp(nats, arrays)[1], arrays)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(back))

    carry, same = _parted(model.init_state(context))
    assert jax.tree.leaves(carry.perceiver.context) == []
    assert len(jax.tree.leaves(same)) == len(jax.tree.leaves(same.perceiver.context))
    # Of eight more chunks: what goes from one to the next, and the streams themselves.
    data = sum(x.nbytes for x in for_translator(some_streams(0, 32)).values())
    handed_on = sum(x.nbytes for x in jax.tree.leaves(carry))
    of_chunks = kept(64, 4)
    assert of_chunks - kept(32, 4) <= 8 * handed_on + 2 * data
    assert kept(64, None) > 4 * of_chunks


def test_batches_of_unequal_lengths_are_those_of_one():
    model = translator()
    batch = [for_translator(some_streams(seed)) for seed in range(2)]
    contexts = jnp.stack([some_context(seed) for seed in range(2)])
    sources, steps = jnp.asarray([3, 5]), jnp.asarray([6, 2])

    @eqx.filter_jit
    @jax.vmap
    def in_a_batch(streams, context, context_count, steps_count):
        counts = {"context_count": context_count, "steps_count": steps_count}
        return model.log_prob(streams, context, **counts)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batch)
    found = in_a_batch(stacked, contexts, sources, steps)
    for row in range(2):
        counts = {"context_count": sources[row], "steps_count": steps[row]}
        assert_close(found[row], log_prob(model, batch[row], contexts[row], **counts))


def test_without_a_window_chunks_are_not_used():
    streams = for_translator(some_streams(0))

    def program(chunk_steps):
        nats = functools.partial(translator(None).log_prob, chunk_steps=chunk_steps)
        return str(jax.make_jaxpr(nats)(streams))

    assert program(1) == program(None)


def test_dropout_acts_where_a_key_is_given():
    model = translator(dropout=0.4)
    streams = for_translator(some_streams(0))
    nats = eqx.filter_jit(lambda key: model.log_prob(streams, key=key, chunk_steps=2))
    one, again, other = (nats(jr.key(seed)) for seed in (0, 0, 1))
    assert one == again != other


def test_the_likelihood_needs_what_is_predicted():
    model, audio = labeller(), {"audio": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"must be \['audio', 'label'\], got \['au"):
        model.log_prob(audio)
    streams = audio | {"label": jnp.zeros((2, 1), int)}
    with pytest.raises(ValueError, match="`chunk_steps` must be at least 1, got 0"):
        model.log_prob(streams, chunk_steps=0)
