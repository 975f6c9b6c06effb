import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import CausalPerceiver
from tests import oracle
from tests.helpers import (
    TOLERANCE,
    assert_close,
    assert_gradients_close,
    relative_error,
)
from tests.models import OUTPUTS, SOURCE, STEPS, perceiver, perceiver_inputs
from tests.strategies import cuts, seeds


WINDOWS = [None, 1, 3, (3, None)]
# Window and context, of those tests that draw them.
KINDS = [(None, True), (1, False), (3, True)]


@eqx.filter_jit
def run(model, inputs, context):
    return model(inputs, context)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_it_is_the_seed_written_out_literally(window, context):
    model = perceiver(window, context)
    inputs, source = perceiver_inputs(0)
    source = source if context else None
    found = run(model, inputs, source)
    assert_close(found, oracle.causal_perceiver(model, inputs, source))


@pytest.mark.parametrize(
    "options",
    [
        {"recency": False, "own_step": False},
        {"query_residual": False, "num_latents": 1, "num_layers": 1},
        {"gated_mlp": True, "qk_norm": True, "query_dim": 6, "query_heads": 3},
        {"readout": "places", "num_latents": 3},
    ],
)
def test_options_are_the_seed_written_out_literally(options):
    """Without recency and own-step inputs it is the seed's recipe and no more."""
    model = perceiver(None, **options)
    inputs, _ = perceiver_inputs(0)
    assert_close(run(model, inputs, None), oracle.causal_perceiver(model, inputs))


@eqx.filter_jit
def dependence(model, inputs, context):
    """By gradient: how much each output step depends on each input step, and on each
    token of the context."""

    def outputs_of(inputs, context):
        return jnp.abs(model(inputs, context) - 0.1).sum((1, 2))

    by_input, by_context = jax.jacrev(outputs_of, (0, 1))(inputs, context)
    return jnp.abs(by_input).sum(-1), jnp.abs(by_context).sum(-1)


@settings(max_examples=5)
@given(seeds, st.sampled_from(WINDOWS))
def test_by_gradient_outputs_depend_on_all_they_may_and_exactly_on_no_more(
    seed, window
):
    by_input, by_context = dependence(perceiver(window, True), *perceiver_inputs(seed))
    allowed = np.tril(np.ones((STEPS, STEPS), bool))
    assert np.all(by_input[~allowed] == 0)
    assert np.all(by_input[allowed] > 0)
    assert by_context.shape == (STEPS, SOURCE)
    assert np.all(by_context > 0)


@settings(max_examples=20)
@given(seeds, st.integers(0, STEPS - 1), st.sampled_from(KINDS))
def test_a_change_of_a_step_leaves_all_outputs_before_it_to_the_bit(seed, step, kind):
    window, context = kind
    model = perceiver(window, context)
    inputs, source = perceiver_inputs(seed)
    source = source if context else None
    changed = inputs.at[step:].add(perceiver_inputs(seed + 2)[0][step:])
    before, after = run(model, inputs, source), run(model, changed, source)
    assert np.array_equal(before[:step], after[:step])
    assert np.all(np.any(before[step:] != after[step:], (1, 2)))


def test_it_is_causal_under_vmap_too():
    model = perceiver(3, True)
    inputs, source = perceiver_inputs(0)
    batch = jnp.stack([inputs, inputs.at[4].add(1.0)])
    run_batch = eqx.filter_jit(eqx.filter_vmap(model, in_axes=(0, None)))
    outputs = run_batch(batch, source)
    assert np.array_equal(outputs[0, :4], outputs[1, :4])
    assert np.all(np.any(outputs[0, 4:] != outputs[1, 4:], (1, 2)))
    assert_close(outputs[0], run(model, inputs, source))


@eqx.filter_jit
def advance(model, state, inputs):
    return model.advance(state, inputs)


@settings(max_examples=15)
@given(seeds, cuts(STEPS), st.sampled_from(KINDS))
def test_however_a_sequence_is_cut_the_outputs_are_equal(seed, cut, kind):
    window, context = kind
    model = perceiver(window, context)
    inputs, source = perceiver_inputs(seed)
    source = source if context else None
    state = model.init_state(source, max_steps=STEPS)
    outputs, start = [], 0
    for length in cut:
        state, chunk = advance(model, state, inputs[start : start + length])
        outputs.append(chunk)
        start += length
    assert int(state.steps) == STEPS
    assert_close(jnp.concatenate(outputs), run(model, inputs, source))


@pytest.mark.parametrize("window", [None, 3])
def test_gradients_through_chunks_equal_those_of_the_whole(window):
    model = perceiver(window, True)
    inputs, source = perceiver_inputs(0)

    @eqx.filter_jit
    @eqx.filter_grad
    def in_chunks(arguments):
        model, inputs, source = arguments
        state = model.init_state(source, max_steps=STEPS)
        total = 0.0
        for chunk in jnp.split(inputs, (4, 5)):
            state, outputs = model.advance(state, chunk)
            total += jnp.sum(outputs**2)
        return total

    @eqx.filter_jit
    @eqx.filter_grad
    def at_once(arguments):
        model, inputs, source = arguments
        return jnp.sum(model(inputs, source) ** 2)

    found, expected = (f((model, inputs, source)) for f in (in_chunks, at_once))
    assert_gradients_close(found, expected)


def test_a_finite_window_streams_past_every_ring_with_a_state_of_constant_size():
    model = perceiver(3)
    inputs, _ = perceiver_inputs(0, steps=40)
    expected = run(model, inputs, None)
    state = model.init_state()
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    for step in range(40):
        state, outputs = advance(model, state, inputs[step : step + 1])
        assert_close(outputs[0], expected[step])
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == size


def test_the_scan_over_layers_with_and_without_remat_is_a_loop_over_them(monkeypatch):
    windows = 2, None, 3
    processor = perceiver(windows, num_layers=6, remat=False).processor
    with_remat = perceiver(windows, num_layers=6, remat=True).processor
    x = jnp.asarray(np.random.default_rng(0).normal(size=(STEPS, 2, 8)), jnp.float32)
    caches = processor.empty_caches(2, x.dtype, 0)
    start = jnp.zeros((), jnp.int32)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def by_scan(arguments, unrolled):
        monkeypatch.setattr("perceiver_eqx.processor._unrolls", lambda: unrolled)
        processor, x = arguments
        return jnp.sum(processor(x, caches, start)[0] ** 3)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def by_loop(arguments):
        processor, x = arguments
        for i in range(processor.num_layers):
            block = jax.tree.map(
                lambda leaf: leaf[i] if eqx.is_array(leaf) else leaf,  # noqa: B023
                processor.blocks,
            )
            window, cache = windows[i % 3], caches[i % 3].of_layer(i // 3)
            x, _ = block(x, cache, start, window)
        return jnp.sum(processor.norm(x) ** 3)

    expected = by_loop((processor, x))
    for unrolled in (False, True):
        assert_gradients_close(by_scan((processor, x), unrolled), expected)
        assert_gradients_close(by_scan((with_remat, x), unrolled), expected)
        loops = by_scan.lower((processor, x), unrolled).as_text().count("while")
        assert (loops == 0) == unrolled
    assert "remat" in str(jax.make_jaxpr(lambda x: with_remat(x, caches, start)[0])(x))


def test_dtype_in_is_dtype_out():
    model = perceiver(3, True)
    inputs, source = (x.astype(jnp.bfloat16) for x in perceiver_inputs(0))
    outputs = run(model, inputs, source)
    assert outputs.dtype == jnp.bfloat16
    expected = oracle.causal_perceiver(model, inputs, source)
    # Two layers round about thirty times: a few times one rounding.
    assert relative_error(outputs, expected) <= 2 * TOLERANCE["bfloat16"]
    state = model.init_state(source, dtype=jnp.bfloat16)
    assert state.prefix.lse.dtype == jnp.float32
    _, first = advance(model, state, inputs[:1])
    assert first.dtype == jnp.bfloat16


def test_dropout_acts_where_a_key_is_given_and_stays_causal():
    model = perceiver(3, dropout=0.3, attention_dropout=0.3, token_dropout=0.3)
    inputs, _ = perceiver_inputs(0)
    drop = eqx.filter_jit(lambda inputs, key: model(inputs, key=key))
    kept = drop(inputs, None)
    assert_close(kept, run(model, inputs, None))
    one, again, other = (drop(inputs, jr.key(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, kept)
    changed = drop(inputs.at[5].add(1.0), jr.key(0))
    assert np.array_equal(one[:5], changed[:5])


def test_going_past_max_steps_is_an_error_and_not_an_overwrite():
    model = perceiver(None)
    inputs, _ = perceiver_inputs(0)
    state = model.init_state(max_steps=4)
    state, _ = advance(model, state, inputs[:3])
    with pytest.raises(Exception, match="past `max_steps` = 4; pass a larger"):
        jax.block_until_ready(advance(model, state, inputs[3:5]))


def test_a_chunk_longer_than_max_steps_is_refused_before_it_runs():
    model = perceiver(None)
    inputs, _ = perceiver_inputs(0)
    with pytest.raises(ValueError, match="at most `max_steps` = 4 steps, got 9"):
        model.advance(model.init_state(max_steps=4), inputs)


def test_past_the_end_of_its_count_a_stream_goes_on():
    model = perceiver(3)
    inputs, _ = perceiver_inputs(0)

    def stream(start: int):
        state, outputs = model.init_state(), []
        state = eqx.tree_at(lambda s: s.steps, state, jnp.int32(start))
        for step in range(STEPS):
            state, output = advance(model, state, inputs[step : step + 1])
            outputs.append(output)
        return int(state.steps), outputs

    limit = 3 * 2**29
    count, outputs = stream(limit - 5)
    earlier, expected = stream(limit - 5 - 2**30)
    assert count == earlier == limit - 5 - 2**30 + STEPS
    assert np.array_equal(outputs, expected)


def test_a_context_of_nothing_is_none():
    model = perceiver(3, True)
    inputs, source = perceiver_inputs(0)
    assert np.array_equal(run(model, inputs, source[:0]), run(model, inputs, None))


def test_the_full_window_needs_to_know_max_steps():
    with pytest.raises(ValueError, match="`max_steps` must be given where"):
        perceiver(None).init_state()


def test_a_context_for_a_model_without_one_is_refused():
    inputs, source = perceiver_inputs(0)
    with pytest.raises(
        ValueError, match="`context` was given to a model built without"
    ):
        perceiver(3)(inputs, source)


def test_another_number_of_tokens_is_refused_with_the_shape():
    inputs, _ = perceiver_inputs(0)
    with pytest.raises(ValueError, match="tokens_per_step=3"):
        perceiver(3)(inputs[:, :2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_latents": 0}, "`num_latents` must be at least 1, got 0"),
        ({"latent_window": 0}, "`latent_window` must be at least 1, got 0"),
        (
            {"latent_dim": 12, "num_heads": 4},
            "`latent_dim` must be a multiple of 8",
        ),
        ({"query_dim": 7}, "`query_dim` must be a multiple of 2"),
        ({"dropout": 1.0}, r"`dropout` must lie in \[0, 1\), got 1.0"),
        ({"latent_window": ()}, "`latent_window` must hold at least one window"),
        ({"latent_window": (4, 0)}, "`latent_window` must be at least 1, got 0"),
        ({"readout": "query"}, "`readout` must be among"),
    ],
)
def test_bad_sizes_are_refused_by_name(change, message):
    sizes = {"num_latents": 2, "latent_dim": 8, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ValueError, match=message):
        CausalPerceiver(
            4,
            4,
            tokens_per_step=1,
            outputs_per_step=OUTPUTS,
            key=jr.key(0),
            **{**sizes, **change},
        )
