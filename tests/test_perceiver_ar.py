"""Perceiver AR: right, causal, and the same however it came to where it stands."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx.perceiver_ar import PerceiverAR
from tests import oracle_parents as oracle
from tests.helpers import assert_close
from tests.models import drawn
from tests.strategies import seeds


SYMBOLS, LONGEST, LATENTS = 11, 16, 6
SIZES = {"num_symbols": SYMBOLS, "max_symbols": LONGEST, "max_latents": LATENTS}
SIZES |= {"dim": 16, "num_layers": 2, "num_heads": 2}
# Latents of a position, channels that turn, layers where they do, absolute positions.
KINDS = [
    (1, None, None, False),
    (1, 4, 1, True),
    (1, 0, None, True),
    (2, None, None, False),
    (2, 0, None, True),
    (4, 4, 0, True),
    (4, 0, None, True),
]


def model_of(kind, **options) -> PerceiverAR:
    latents, turned, layers, absolute = kind
    return drawn(
        PerceiverAR,
        latents_per_position=latents,
        rotary_dims=turned,
        rotary_layers=layers,
        absolute_positions=absolute,
        **{**SIZES, **options},
    )


def symbols_of(seed: int, count: int = LONGEST):
    return jr.randint(jr.key(seed), (count,), 0, SYMBOLS)


@eqx.filter_jit
def run(model, symbols, prefix, padding=0, key=None):
    return model(symbols, prefix, padding=padding, key=key)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_description_written_out_in_float64(kind):
    model, symbols = model_of(kind, use_bias=kind[3]), symbols_of(0)
    with jax.default_matmul_precision("highest"):
        for prefix, padding in ((10, 0), (12, 3)):
            found = run(model, symbols, prefix, jnp.int32(padding))
            expected = oracle.perceiver_ar(model, symbols, prefix, padding)
            assert_close(found, expected)


@settings(max_examples=15)
@given(seeds, st.integers(0, LONGEST - 1), st.sampled_from(KINDS))
def test_a_change_of_a_symbol_leaves_all_before_it_to_the_bit(seed, place, kind):
    model, symbols, prefix = model_of(kind), symbols_of(seed), 10
    changed = symbols.at[place:].set((symbols[place:] + 1) % SYMBOLS)
    before, after = run(model, symbols, prefix), run(model, changed, prefix)
    unseen = max(place - prefix, 0)
    assert np.array_equal(before[:unseen], after[:unseen])
    assert np.all(np.any(before[unseen:] != after[unseen:], 1))


@pytest.mark.parametrize("kind", KINDS)
def test_each_position_depends_on_every_one_up_to_it(kind):
    model, symbols, prefix = model_of(kind), symbols_of(1), 10
    whole = run(model, symbols, prefix)
    for place in range(LONGEST):
        changed = symbols.at[place].set((symbols[place] + 1) % SYMBOLS)
        differs = np.any(run(model, changed, prefix) != whole, 1)
        assert np.array_equal(differs, np.arange(prefix, LONGEST) >= place)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], KINDS[3], KINDS[5]])
@pytest.mark.parametrize("stride", [1, 2, 6])
def test_a_stream_is_the_model_of_what_it_remembers(kind, stride):
    model, symbols, first = model_of(kind), symbols_of(2, 40), 5
    advance = eqx.filter_jit(lambda s, x: model.advance(s, x, stride=stride))
    state, logits = model.init_state(symbols[:first], latents=2)
    prefixes = set()
    for place in range(first, symbols.size):
        count, prefix = int(state.count), int(state.prefix)
        remembered = symbols[place - count : place]
        assert np.array_equal(state.symbols[:count], remembered)
        assert 1 <= count - prefix <= LATENTS
        if place % 3 == 0 or (count, prefix) not in prefixes:
            expected = oracle.perceiver_ar(model, remembered, prefix)
            assert_close(logits, expected[-1])
        prefixes.add((count, prefix))
        state, logits = advance(state, symbols[place])
    assert len(prefixes) > 3


@pytest.mark.parametrize("latents", [1, LONGEST])
def test_a_stream_of_one_latent_or_of_as_many_as_symbols(latents):
    model = model_of(KINDS[3], max_latents=latents)
    symbols, first = symbols_of(7, 40), LONGEST
    advance = eqx.filter_jit(lambda s, x: model.advance(s, x, stride=latents))
    state, logits = model.init_state(symbols[:first], latents=latents)
    for place in range(first, symbols.size):
        count, prefix = int(state.count), int(state.prefix)
        remembered = symbols[place - count : place]
        assert_close(logits, oracle.perceiver_ar(model, remembered, prefix)[-1])
        state, logits = advance(state, symbols[place])


def test_the_first_symbols_may_be_absent():
    model, symbols = model_of(KINDS[1]), symbols_of(3)
    padded = run(model, symbols, 12, jnp.int32(4))
    assert_close(padded, run(model, symbols[4:], 8))
    other = run(model, symbols.at[:4].set(0), 12, jnp.int32(4))
    assert np.array_equal(padded, other)


def test_a_share_of_the_prefix_is_left_out_in_training():
    model, symbols, prefix = model_of(KINDS[0], prefix_dropout=0.5), symbols_of(4), 10
    assert np.array_equal(run(model, symbols, prefix), run(model, symbols, prefix))
    # Which of the prefix matter: half of it, with each key another half.
    for seed in (0, 1):
        key, seen = jr.key(seed), []
        whole = run(model, symbols, prefix, 0, key)
        for place in range(prefix):
            changed = symbols.at[place].set((symbols[place] + 1) % SYMBOLS)
            seen.append(not np.array_equal(run(model, changed, prefix, 0, key), whole))
        assert sum(seen) == 5
    assert not np.allclose(run(model, symbols, prefix, 0, jr.key(0)), whole)


def test_it_generates_beyond_its_longest_sequence():
    model = model_of(KINDS[1])
    likeliest = lambda logits, key: jnp.argmax(logits)  # noqa: E731
    found = eqx.filter_jit(
        lambda: model.generate(
            symbols_of(5, 3), 40, stride=2, draw=likeliest, key=jr.key(0)
        )
    )()
    symbols = [*np.asarray(symbols_of(5, 3))]
    state, logits = model.init_state(jnp.asarray(symbols))
    advance = eqx.filter_jit(lambda s, x: model.advance(s, x, stride=2))
    for _ in range(40):
        symbols.append(int(jnp.argmax(logits)))
        state, logits = advance(state, jnp.asarray(symbols[-1]))
    assert np.array_equal(found, symbols[3:])
    drawn_twice = [model.generate(symbols_of(5, 3), 9, key=jr.key(k)) for k in (1, 2)]
    assert not np.array_equal(*drawn_twice)


def test_a_prompt_of_more_than_it_remembers_is_cut():
    model, symbols = model_of(KINDS[0]), symbols_of(6, 30)
    one, other = (model.init_state(x, latents=9) for x in (symbols, symbols[-LONGEST:]))
    assert eqx.tree_equal(one, other)
    assert int(one[0].count) - int(one[0].prefix) == LATENTS


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: m(symbols_of(0), 9), "`prefix` must leave 1 to 6 .* got 9 of 16"),
        (lambda m: m(symbols_of(0), 16), "`prefix` must leave 1 to 6 .* got 16 of"),
        (lambda m: m(symbols_of(0), -1), "`prefix` must leave 1 to 6 .* got -1 of"),
        (lambda m: m(symbols_of(0, 17), 15), "at most 16 .* symbols, got 15 of 17"),
        (lambda m: m.init_state(symbols_of(0, 0)), "`prompt` must hold at least 1"),
        (
            lambda m: m.init_state(symbols_of(0), latents=0),
            "`latents` must be at least",
        ),
        (
            lambda m: m.advance(m.init_state(symbols_of(0))[0], jnp.int32(0), stride=7),
            "`stride` must be at most 6",
        ),
        (lambda m: model_of(KINDS[0], max_latents=17), "`max_latents` must be at most"),
        (lambda m: model_of(KINDS[0], num_heads=3), "`dim` must be a multiple of 3"),
        (
            lambda m: model_of((1, 3, None, False)),
            "`rotary_dims` must be even .* 3",
        ),
        (lambda m: model_of((1, None, None, True), num_heads=16), "even .* got 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call(model_of(KINDS[0]))
