import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import ByteLM
from perceiver_eqx.adapters.local import check_local_window
from perceiver_eqx.arguments import kept
from tests import oracle
from tests.helpers import TOLERANCE, assert_close, relative_error
from tests.models import SOURCE, STEPS, TOKENS, byte_inputs, byte_lm
from tests.strategies import cuts, seeds


KINDS = [(None, True), (1, False), (3, True)]
LENGTH = STEPS * TOKENS


@eqx.filter_jit
def run(model, tokens, context):
    return model(tokens, context)


def kind_of_model(kind, seed):
    window, context = kind
    tokens, source = byte_inputs(seed)
    return byte_lm(window, context), tokens, source if context else None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ((None, True), {}),
        ((3, False), {"gated_mlp": False, "qk_norm": False, "own_step": False}),
        ((1, True), {"input_layers": 0, "output_layers": 1, "local_window": 1}),
        ((3, False), {"input_layers": 1, "output_layers": 0, "recency": False}),
        (((None, 2), False), {"local_window": (1, 5), "output_layers": 3}),
        ((2, True), {"readout": "queries", "ngrams": (), "input_layers": 2}),
        ((3, True), {"context_layers": 2, "context_block": 2, "context_patch": 2}),
    ],
)
def test_it_is_its_description_written_out_in_float64(kind, options):
    window, context = kind
    model = byte_lm(window, context, **options)
    tokens, source = byte_inputs(0)
    source = source if context else None
    assert_close(run(model, tokens, source), oracle.byte_lm(model, tokens, source))


@settings(max_examples=20)
@given(seeds, st.integers(0, LENGTH - 1), st.sampled_from(KINDS))
def test_a_change_of_a_byte_leaves_the_logits_up_to_its_own_to_the_bit(
    seed, place, kind
):
    """Byte (t, i) is predicted from the bytes before it: not from itself, nor from
    those after it in its step."""
    model, tokens, source = kind_of_model(kind, seed)
    flat = tokens.ravel()
    changed = flat.at[place:].set((flat[place:] + 1 + place % 254) % 256)
    before = run(model, tokens, source).reshape(LENGTH, 256)
    after = run(model, changed.reshape(tokens.shape), source).reshape(LENGTH, 256)
    assert np.array_equal(before[: place + 1], after[: place + 1])
    assert np.all(np.any(before[place + 1 :] != after[place + 1 :], 1))


@pytest.mark.parametrize("kind", KINDS)
def test_each_byte_alone_reaches_every_later_prediction(kind):
    """No dead path: one changed byte moves the logits of all bytes after it."""
    model, tokens, source = kind_of_model(kind, 0)
    flat = tokens.ravel()
    every = jnp.stack([flat.at[i].set((flat[i] + 77) % 256) for i in range(LENGTH)])
    batch = eqx.filter_jit(eqx.filter_vmap(ByteLM.__call__, in_axes=(None, 0, None)))
    changed = batch(model, every.reshape(LENGTH, *tokens.shape), source)
    same = batch(model, jnp.stack([tokens] * LENGTH), source)
    moved = np.any(changed != same, -1).reshape(LENGTH, LENGTH)
    assert np.array_equal(moved, np.triu(np.ones((LENGTH, LENGTH), bool), 1))


@eqx.filter_jit
def dependence(model, tokens, context):
    """By gradient, through the embeddings: how much the logits of each byte depend on
    each byte."""
    table = model.inputs.embedding.table
    embedded = table[tokens.ravel()]

    def logits_of(embedded):
        # Every byte has a row of its own in the table, which alone is differentiated.
        own = eqx.tree_at(lambda m: m.inputs.embedding.table, model, embedded)
        places = jnp.arange(tokens.size).reshape(tokens.shape)
        return jnp.abs(own(places, context) - 0.1).sum(2).ravel()

    return jnp.abs(jax.jacrev(logits_of)(embedded)).sum(-1)


@pytest.mark.parametrize("window", [None, 3])
def test_by_gradient_a_byte_sees_all_bytes_before_and_exactly_no_more(window):
    tokens, _ = byte_inputs(0)
    found = dependence(byte_lm(window), tokens, None)
    allowed = np.tril(np.ones((LENGTH, LENGTH), bool), -1)
    assert np.all(found[~allowed] == 0)
    assert np.all(found[allowed] > 0)


def test_every_byte_of_the_context_reaches_every_prediction():
    model, tokens, source = kind_of_model((3, True), 0)
    before = run(model, tokens, source)
    for place in range(SOURCE):
        after = run(model, tokens, source.at[place].add(1) % 256)
        assert np.all(np.any(before != after, -1))


@eqx.filter_jit
def advance(model, state, tokens):
    return model.advance(state, tokens)


@settings(max_examples=15)
@given(seeds, cuts(STEPS), st.sampled_from(KINDS))
def test_however_the_bytes_are_cut_the_logits_are_equal(seed, cut, kind):
    model, tokens, source = kind_of_model(kind, seed)
    state = model.init_state(source, max_steps=STEPS)
    logits, start = [], 0
    for length in cut:
        state, chunk = advance(model, state, tokens[start : start + length])
        logits.append(chunk)
        start += length
    assert_close(jnp.concatenate(logits), run(model, tokens, source))


def test_bytes_of_any_integer_dtype_give_the_same_logits():
    model, tokens, _ = kind_of_model((1, False), 0)
    assert np.array_equal(
        run(model, tokens, None), run(model, tokens.astype(jnp.uint8), None)
    )


def test_half_precision_keeps_float32_logits_near_those_of_full_precision():
    # Norms over the few channels of the other tests' models would blow rounding up.
    half, full = byte_lm(3, latent_dim=64, dtype="bfloat16"), byte_lm(3, latent_dim=64)
    assert half.init_state().perceiver.prefix.value.dtype == jnp.float32
    for seed in range(3):
        tokens, _ = byte_inputs(seed)
        logits, expected = (run(model, tokens, None) for model in (half, full))
        assert logits.dtype == jnp.float32
        assert relative_error(logits, expected) <= TOLERANCE["bfloat16"]


def test_a_fresh_model_spends_about_eight_bits_a_byte():
    sizes = {"num_latents": 2, "latent_dim": 16, "num_layers": 2, "num_heads": 2}
    build = eqx.filter_jit(lambda key: ByteLM(bytes_per_step=TOKENS, **sizes, key=key))
    model = build(jr.key(0))
    tokens, _ = byte_inputs(0)
    logits = jax.nn.log_softmax(run(model, tokens, None))
    chosen = jnp.take_along_axis(logits, tokens[..., None], -1)
    assert abs(-chosen.mean() / np.log(2) - 8) < 0.1


def test_hyperparameters_build_the_same_model_again():
    model = byte_lm(3)
    again = eqx.filter_eval_shape(
        lambda key: ByteLM(**model.hyperparameters, key=key), jr.key(0)
    )
    shapes = jax.tree.map(lambda x: x.shape, eqx.filter(model, eqx.is_array))
    assert jax.tree.map(lambda x: x.shape, again) == shapes


SMALL = {
    "bytes_per_step": 2,
    "num_latents": 1,
    "latent_dim": 8,
    "num_layers": 1,
    "num_heads": 2,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int8"}, "`dtype` must be 'float32', .* got 'int8'"),
        ({"bytes_per_step": 0}, "`bytes_per_step` must be at least 1, got 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, got 0"),
        ({"input_layers": -1}, "`input_layers` must be at least 0, got -1"),
        ({"local_window": 0}, "`local_window` must be at least 1, got 0"),
        ({"ngrams": (3, 1)}, "`ngrams` must be at least 2, got 1"),
        ({"ngrams": (3,), "ngram_rows": 1000}, "nearest are 512 and 1024"),
        ({"local_dim": 7}, "`local_dim` must be a multiple of 2 "),
        ({"local_heads": 0}, "`local_heads` must be at least 1, got 0"),
        ({"token_dim": 0}, "`token_dim` must be at least 1, got 0"),
        ({"mlp_widening": 0}, "`mlp_widening` must be at least 1, got 0"),
        ({"context_patch": 0}, "`context_patch` must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        ByteLM(**{**SMALL, **change}, key=jr.key(0))


@pytest.mark.parametrize("window", [None, (4, None)])
def test_a_local_window_without_end_is_refused(window):
    with pytest.raises(ValueError, match="`local_window` must be .* got .*None"):
        check_local_window(window)


def test_numbers_of_numpy_can_be_written_down():
    given = kept({"self": 0, "a": (np.int64(8), [np.float32(0.5), None]), "key": 0})
    assert given == (("a", (8, (0.5, None))),)
    assert json.loads(json.dumps(dict(given))) == {"a": [8, [0.5, None]]}


def test_a_context_for_a_model_without_one_is_refused():
    tokens, source = byte_inputs(0)
    with pytest.raises(ValueError, match="build it with `use_context=True`"):
        byte_lm(3)(tokens, source)


def test_a_dtype_by_any_name_is_kept_as_a_word():
    for dtype in (jnp.bfloat16, jnp.dtype("bfloat16"), "bfloat16"):
        model = byte_lm(3, dtype=dtype)
        assert model.hyperparameters["dtype"] == "bfloat16"
        assert model.dtype == jnp.bfloat16


def test_a_state_can_be_donated():
    state = byte_lm(3).init_state()
    after = jax.jit(lambda s: s, donate_argnums=0)(state)
    assert state.perceiver.caches[0].attention.keys.is_deleted()
    assert not after.perceiver.caches[0].attention.keys.is_deleted()
