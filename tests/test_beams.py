import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx import beam_search, generate, log_prob
from tests.models import TOKENS, byte_lm


def one_layer(window=3):
    return byte_lm(window, num_layers=1)


@pytest.mark.parametrize("prompt", [b"", b"ab", b"abcd"])
def test_256_beams_find_the_likeliest_of_all_pairs_of_bytes(prompt):
    """The prompts leave 3, 1 and 2 bytes of the step: the pair may span two steps."""
    model, size = one_layer(), len(prompt)
    steps = -(-(size + 2) // TOKENS)

    @eqx.filter_jit
    def all_pairs(model):
        """The log-probability of each pair, from the logits of both."""

        def second(first):
            text = jnp.array([*prompt, 0] + [0] * (steps * TOKENS - size - 1))
            text = text.at[size].set(first)
            logits = model(text.reshape(steps, TOKENS)).reshape(-1, 256)
            one, two = jax.nn.log_softmax(logits[size : size + 2])
            return one[first] + two

        return jax.vmap(second)(jnp.arange(256))

    expected = np.asarray(all_pairs(model)).ravel()
    found = beam_search(model, prompt, 2, num_beams=256)
    order = np.argsort(-expected, kind="stable")[:256]
    scores = np.array([score for _, score in found])
    assert np.allclose(scores, expected[order], atol=1e-4)
    places = [256 * int(data[0]) + int(data[1]) for data, _ in found]
    assert np.allclose(expected[places], scores, atol=1e-4)
    assert len(set(places)) == 256


@pytest.mark.parametrize("window", [None, 3])
def test_one_beam_takes_the_likeliest_byte_each_time(window):
    model = one_layer(window)
    ((data, score),) = beam_search(model, b"abcd", 10, num_beams=1)
    coldest = generate(model, b"abcd", 10, temperature=0.0, key=jr.key(0))
    assert data.tolist() == coldest.tolist()
    both = b"abcd" + np.asarray(data).tobytes()
    assert np.isclose(
        score, log_prob(model, both) - log_prob(model, b"abcd"), rtol=1e-5
    )


def test_more_beams_find_what_is_likelier_and_score_it_rightly():
    model = one_layer()
    one, many = (beam_search(model, b"ab", 9, num_beams=n) for n in (1, 16))
    # They may find the same bytes, whose sums are rounded apart.
    assert many[0].log_prob >= one[0].log_prob - 1e-4
    assert [x.log_prob for x in many] == sorted(
        (x.log_prob for x in many), reverse=True
    )
    for data, score in many[::5]:
        whole = log_prob(model, b"ab" + np.asarray(data).tobytes())
        assert np.isclose(score, whole - log_prob(model, b"ab"), rtol=1e-5)


def test_a_state_and_a_context_are_gone_on_from():
    model = byte_lm(3, True, num_layers=1)
    state = model.init_state(jnp.frombuffer(b"source", jnp.uint8))
    found = beam_search(model, b"ab", 5, state=state)
    expected = beam_search(model, b"ab", 5, context=b"source")
    assert [x.data.tolist() for x in found] == [x.data.tolist() for x in expected]


def test_no_beam_is_refused():
    with pytest.raises(ValueError, match="`num_beams` must be at least 1, got 0"):
        beam_search(one_layer(), b"a", 3, num_beams=0)
