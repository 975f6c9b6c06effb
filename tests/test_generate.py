import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import Rules, generate, stream
from perceiver_eqx.sampling import filter_logits
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


def test_in_half_precision_each_byte_is_about_the_likeliest():
    """By the model as it is: generation converts its matrices first."""
    model = byte_lm(3, num_layers=1, latent_dim=64, dtype="bfloat16")
    found = generate(model, b"abcd", 20, temperature=0.0, key=jr.key(0))
    state, data = model.init_state(), b"abcd"
    bytes_of = eqx.filter_jit(lambda state, data: model.advance_bytes(state, data))
    for expected in found:
        after, _ = bytes_of(state, jnp.frombuffer(data, jnp.uint8))
        _, logits = bytes_of(after, jnp.zeros(1, jnp.uint8))
        assert logits[0].max() - logits[0, expected] < 0.02
        state, data = after, bytes([int(expected)])


def test_the_context_is_used():
    model = byte_lm(3, True, num_layers=1)
    _, source = byte_inputs(0)
    found = generate(model, b"ab", 9, temperature=0.0, context=source, key=jr.key(0))
    assert found.tolist() == by_recomputation(model, b"ab", 9, source)


@pytest.mark.parametrize("prompts", [[b"", b"", b""], [b"ab", b"", b"abcd"]])
def test_a_list_of_contexts_is_one_for_each_prompt(prompts):
    """Each as by itself, though all are filled up to one length."""
    model = byte_lm(3, True, num_layers=1)
    contexts = [b"a source", b"", b"another, of more than sixteen bytes"]
    rules = {"temperature": 0.0, "key": jr.key(0)}
    found = generate(model, prompts, 9, context=contexts, **rules)
    for prompt, context, one in zip(prompts, contexts, found, strict=True):
        source = jnp.frombuffer(context, jnp.uint8) if context else None
        assert one.tolist() == by_recomputation(model, prompt, 9, source)
    with pytest.raises(ValueError, match="one for each, got 2 for 3"):
        generate(model, prompts, 9, context=contexts[:2], **rules)


def test_the_same_key_draws_the_same_bytes_and_another_key_others():
    model = byte_lm(3, num_layers=1)
    one, again, other = (
        generate(model, b"a", 20, key=jr.key(seed)).tolist() for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_samples_follow_the_models_own_probabilities():
    model = byte_lm(1, num_layers=1)
    drawn = generate(model, b"xy", 1, num_samples=4000, key=jr.key(0))
    counts = np.bincount(np.concatenate(drawn), minlength=256)
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


PROMPTS = [b"", b"ab", b"abc", b"abcdefgh" * 4]


@pytest.mark.parametrize("window", [None, 3])
def test_prompts_of_any_lengths_go_on_together_as_one_by_one(window):
    model = byte_lm(window, num_layers=1)
    together = generate(model, PROMPTS, 10, key=jr.key(0))
    for prompt, key, found in zip(
        PROMPTS, jr.split(jr.key(0), 4), together, strict=True
    ):
        assert found.tolist() == generate(model, prompt, 10, key=key).tolist()


def test_a_row_that_is_done_needs_no_room_for_the_others():
    # The longer prompt ends with a step, the shorter one inside it and takes one more.
    model, prompts = byte_lm(None, num_layers=1), [b"abcdef", b"abcde"]
    state = model.init_state(max_steps=4)
    options = {"temperature": 0.0, "key": jr.key(0)}
    found = generate(model, prompts, 6, state=state, **options)
    for prompt, added in zip(prompts, found, strict=True):
        assert added.tolist() == by_recomputation(model, prompt, 6)
        of_own_room = generate(model, prompt, 6, **options)
        assert added.tolist() == of_own_room.tolist()


def test_samples_of_a_prompt_are_those_of_the_prompt_repeated():
    model = byte_lm(3, num_layers=1)
    samples = generate(model, b"abcd", 7, num_samples=3, key=jr.key(0))
    repeated = generate(model, [b"abcd"] * 3, 7, key=jr.key(0))
    assert [x.tolist() for x in samples] == [x.tolist() for x in repeated]
    assert len({tuple(x.tolist()) for x in samples}) == 3


def test_every_step_is_drawn_by_a_key_of_its_own():
    def all_alike(logits, recent):
        return jnp.zeros_like(logits)

    model = byte_lm(3, num_layers=1)
    found = generate(model, b"", 300, processors=[all_alike], key=jr.key(0))
    steps = {tuple(step) for step in found.reshape(-1, TOKENS).tolist()}
    assert len(steps) == 100
    assert len(set(found.tolist())) > 100


def test_no_prompt_is_continued_by_nothing():
    assert generate(byte_lm(3, num_layers=1), [], 7, key=jr.key(0)) == []


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("cut", [0, 3, 5, 11])
def test_a_state_is_gone_on_from_more_than_once(window, cut):
    model, prompt = byte_lm(window, num_layers=1), b"abcdefghijk"
    state = model.init_state(max_steps=16)
    if cut:
        head = jnp.frombuffer(prompt[:cut], jnp.uint8)
        state, _ = eqx.filter_jit(model.advance_bytes)(state, head)
    for seed in (0, 1):
        found = generate(model, prompt[cut:], 9, state=state, key=jr.key(seed))
        whole = generate(model, prompt, 9, key=jr.key(seed))
        assert found.tolist() == whole.tolist()


def test_a_stream_gives_the_same_bytes_step_by_step():
    model = byte_lm(3, num_layers=1)
    whole = generate(model, b"abcd", 12, key=jr.key(0))
    pieces = list(stream(model, b"abcd", 12, key=jr.key(0)))
    assert [len(piece) for piece in pieces] == [2, 3, 3, 3, 1]
    assert b"".join(pieces) == np.asarray(whole).tobytes()


@settings(max_examples=10)
@given(st.integers(0, 19), st.integers(1, 6), st.integers(0, 19), st.integers(1, 6))
def test_generation_ends_before_the_first_stop(one, length, other, more):
    model = byte_lm(3, num_layers=1)
    whole = np.asarray(generate(model, b"a", 20, key=jr.key(3))).tobytes()
    stops = [whole[one : one + length], whole[other : other + more]]
    expected = whole[: min(map(whole.index, stops))]
    found = generate(model, b"a", 20, stop=stops, key=jr.key(3))
    pieces = list(stream(model, b"a", 20, stop=stops, key=jr.key(3)))
    assert np.asarray(found).tobytes() == b"".join(pieces) == expected
    assert all(pieces)


def test_what_only_begins_a_stop_is_told_in_the_end():
    model = byte_lm(3, num_layers=1)
    whole = np.asarray(generate(model, b"a", 7, key=jr.key(3))).tobytes()
    pieces = stream(model, b"a", 7, stop=whole[5:] + b"..", key=jr.key(3))
    assert b"".join(pieces) == whole


def test_prompts_of_other_lengths_compile_nothing_anew():
    traced = []

    def count(logits, recent):
        traced.append(recent)
        return logits

    model = byte_lm(3, num_layers=1)
    for length in (0, 1, 2, 3, 4, 5, 30):
        generate(model, bytes(length), 2 + length, processors=[count], key=jr.key(0))
    assert len(traced) == 1


def test_processors_see_the_newest_bytes_and_change_the_logits():
    def double(logits, recent):
        """The last byte but one again."""
        return jnp.where(jnp.arange(256) == recent[-2], logits, -jnp.inf)

    found = generate(
        byte_lm(3, num_layers=1), b"xyz--ab", 7, processors=[double], key=jr.key(0)
    )
    assert np.asarray(found).tobytes() == b"abababa"


def test_the_repetition_penalty_weakens_what_was_there():
    logits, recent = jnp.array([2.0, -2.0, 2.0, -2.0]), jnp.array([-1, 0, 1, 1])
    found = Rules(repetition_penalty=2.0).process(logits, recent)
    assert found.tolist() == [1.0, -4.0, 2.0, -2.0]


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
    # Of the likeliest, 0.15 is 0.3, and at half the temperature 0.09.
    assert kept(1.0, 4, 1.0, 0.29) == [True, True, True, False]
    assert kept(0.5, 4, 1.0, 0.29) == [True, True, False, False]
    assert kept(1.0, 4, 1.0, 1.0) == [True, False, False, False]


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
        ({"min_p": 1.1}, r"`min_p` must lie in \[0, 1\], got 1.1"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be above 0"),
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"prompt": [b"a"], "num_samples": 2}, "`num_samples` must be None for a list"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, message):
    arguments = {"prompt": b"a", "num_bytes": 3, **change}
    with pytest.raises(ValueError, match=message):
        generate(byte_lm(3), key=jr.key(0), **arguments)


@pytest.mark.parametrize("stop", [b"", [b"a", b""]])
def test_an_empty_stop_is_refused(stop):
    with pytest.raises(ValueError, match="`stop` must hold no empty bytes"):
        generate(byte_lm(3), b"a", 3, stop=stop, key=jr.key(0))


def test_a_context_beside_a_state_is_refused():
    model = byte_lm(3, True)
    with pytest.raises(ValueError, match="use `model.add_context"):
        generate(model, b"a", 3, context=b"b", state=model.init_state(), key=jr.key(0))
