import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import generate
from perceiver_eqx.generate import filter_logits
from tests.helpers import normals
from tests.models import TOKENS, byte_inputs, byte_lm
from tests.strategies import seeds


STEPS = 8


@eqx.filter_jit
def all_logits(model, tokens, context):
    return model(tokens, context)


def by_recomputation(model, prompt, num_bytes, context=None):
    """Arg-max decoding that runs the whole model again for every byte."""
    sequence = list(prompt)
    for _ in range(num_bytes):
        padded = sequence + [0] * (STEPS * TOKENS - len(sequence))
        tokens = jnp.array(padded).reshape(STEPS, TOKENS)
        logits = all_logits(model, tokens, context).reshape(-1, 256)
        sequence.append(int(jnp.argmax(logits[len(sequence)])))
    return sequence[len(prompt) :]


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("prompt", [b"", b"abcd", b"abcdefghi"])
def test_the_most_likely_bytes_are_those_of_full_recomputation(window, prompt):
    """Prompts of nothing, ending inside a step, ending with a step."""
    model = byte_lm(window, num_layers=1)
    found = generate(model, prompt, 11, temperature=0.0, key=jr.key(0))
    assert found.dtype == jnp.uint8
    assert found.tolist() == by_recomputation(model, prompt, 11)


def test_the_context_is_used():
    model = byte_lm(3, True, num_layers=1)
    _, source = byte_inputs(0)
    found = generate(model, b"ab", 9, temperature=0.0, context=source, key=jr.key(0))
    assert found.tolist() == by_recomputation(model, b"ab", 9, source)


def test_the_same_key_draws_the_same_bytes_and_another_key_others():
    model = byte_lm(3, num_layers=1)
    one, again, other = (
        generate(model, b"a", 20, key=jr.key(seed)).tolist() for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_samples_follow_the_models_own_probabilities():
    model = byte_lm(1, num_layers=1)
    prompt = jnp.frombuffer(b"xy", jnp.uint8)
    keys = jr.split(jr.key(0), 4000)
    draw = jax.jit(jax.vmap(lambda key: generate(model, prompt, 1, key=key)[0]))
    counts = np.bincount(draw(keys), minlength=256)
    tokens = jnp.array([[*b"xy", 0]])
    expected = 4000 * jax.nn.softmax(model(tokens)[0, 2])
    likely = expected > 20
    spread = np.sqrt(expected)[likely]
    assert np.all(np.abs(counts - expected)[likely] < 5 * spread)


filtered = jax.jit(filter_logits, static_argnums=(1, 2, 3))


@settings(max_examples=10)
@given(seeds, st.sampled_from([1, 5, 256]), st.sampled_from([0.3, 0.9, 1.0]))
def test_filters_keep_the_fewest_likely_symbols(seed, top_k, top_p):
    logits = 3 * normals(seed, 256)
    kept = np.isfinite(filtered(jnp.asarray(logits), 2.0, top_k, top_p))
    order = np.argsort(-logits)
    probabilities = np.exp(logits[order[:top_k]].astype(float) / 2)
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    count = max(1, int(np.sum(before < top_p - 1e-6)))
    assert kept.sum() in (count, count + 1)  # a sum within rounding of top_p
    assert np.all(kept[order[:count]])


def test_filters_as_computed_by_hand():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))

    def kept(*rules):
        return np.isfinite(filter_logits(logits, *rules)).tolist()

    assert kept(1.0, 256, 1.0) == [True, True, True, True]
    assert kept(1.0, 2, 1.0) == [True, True, False, False]
    assert kept(1.0, 256, 0.6) == [True, True, False, False]
    assert kept(1.0, 256, 0.4) == [True, False, False, False]
    # Of the two that top_k leaves, 0.5 / 0.8 already sums to 0.6.
    assert kept(1.0, 2, 0.6) == [True, False, False, False]


def test_equal_logits_are_told_apart_by_rank():
    logits = jnp.array([1.0, 2.0, 1.0, 1.0])
    for top_k in (1, 2, 3, 4):
        assert np.isfinite(filter_logits(logits, 1.0, top_k, 1.0)).sum() == top_k
    assert np.isfinite(filter_logits(jnp.zeros(4), 1.0, 256, 0.5)).sum() == 2


def test_the_coldest_temperatures_take_the_most_likely_byte():
    model = byte_lm(3, num_layers=1)
    found = [
        generate(model, b"a", 6, temperature=t, key=jr.key(0)).tolist()
        for t in (0.0, 1e-40, 1e-5)
    ]
    assert found[0] == found[1] == found[2]


def test_a_prompt_that_holds_no_bytes_is_refused():
    with pytest.raises(ValueError, match="`prompt` must hold bytes, 0 to 255, got 3"):
        generate(byte_lm(3), jnp.array([3, 300]), 1, key=jr.key(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_bytes": 0}, "`num_bytes` must be at least 1, got 0"),
        ({"temperature": -1.0}, "`temperature` must be at least 0 and finite, got -1"),
        ({"temperature": float("nan")}, "`temperature` must be at least 0 and finite"),
        ({"top_k": 0}, "`top_k` must be between 1 and 256, got 0"),
        ({"top_p": 0.0}, r"`top_p` must lie in \(0, 1\], got 0.0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        generate(byte_lm(3), b"a", key=jr.key(0), **{"num_bytes": 3, **change})
