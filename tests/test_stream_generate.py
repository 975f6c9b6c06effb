"""`sample_steps`: what is drawn is what was predicted before it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx import SymbolOutput, sample_steps
from perceiver_eqx.adapters.streams import StreamsOut
from tests.helpers import assert_close
from tests.stream_models import (
    AT_ONCE,
    LATE,
    ONLY_OUT,
    STEPS,
    Normal,
    Numbers,
    advance,
    built,
    everything,
    labeller,
    piece,
    run,
    some_context,
    some_streams,
    translator,
    written_out,
)


def likeliest(logits, key):
    return jnp.argmax(logits, -1)


def hashed(x, kinds: int):
    """Kinds that a small change of a number changes, but no rounding."""
    return jnp.floor(50 * x).astype(jnp.int32) * 977 % kinds


DRAW = {
    "label": likeliest,
    "symbols": lambda logits, key: hashed(logits[..., 0], 5),
    "notes": lambda logits, key: hashed(logits, 2) == 1,
    "sound": lambda mix, key: hashed(mix.means[..., 0] / 2**15, 2**16),
    "video": lambda mix, key: hashed(mix.means / 2**7, 256).reshape(-1, 2, 2, 1),
}


def test_what_is_generated_is_what_is_predicted_of_it():
    model, context = everything(), some_context(0)
    known = {name: some_streams(0)[name] for name in AT_ONCE}
    drawn = sample_steps(model, STEPS, known, context=context, draw=DRAW, key=jr.key(0))
    assert set(drawn) == {*LATE, *ONLY_OUT}
    predictions = run(model, drawn | known, context)
    for name, draw in DRAW.items():
        assert np.array_equal(drawn[name], draw(predictions[name], None)), name
    for name in LATE:
        assert np.any(drawn[name] != drawn[name][:1])


@pytest.mark.parametrize("window", [None, 2])
def test_generation_goes_on_from_a_state(window):
    model, context = translator(window), some_context(0)
    audio = {"audio": some_streams(0)["audio"]}
    draw = {"symbols": DRAW["symbols"]}
    whole = sample_steps(model, STEPS, audio, context=context, draw=draw, key=jr.key(0))
    state = model.init_state(context, max_steps=STEPS)
    state, _ = advance(model, state, piece(whole | audio, 0, 2))
    more = sample_steps(
        model, 4, piece(audio, 2, STEPS), state=state, draw=draw, key=jr.key(1)
    )
    assert np.array_equal(more["symbols"], whole["symbols"][2:])


def test_a_draw_is_by_the_adapter_from_what_was_predicted_before_it():
    model = everything()
    known = {name: some_streams(0)[name] for name in AT_ONCE}
    drawn = sample_steps(model, STEPS, known, key=jr.key(3))
    state, draw_step = model.init_state(), eqx.filter_jit(model.draw_step)
    for step, key in enumerate(jr.split(jr.key(3), STEPS)):
        state, one = draw_step(state, piece(known, step, step + 1), key=key)
        for name, x in one.items():
            assert np.array_equal(x[0], drawn[name][step]), name
    again, other = (sample_steps(model, STEPS, known, key=jr.key(s)) for s in (3, 4))
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)
    assert all(not np.array_equal(drawn[name], other[name]) for name in drawn)


class Coin(Normal):
    """Zeros and ones."""

    def log_prob(self, prediction, targets):
        signs = 2 * targets.reshape(prediction.shape) - 1
        return jax.nn.log_sigmoid(signs * prediction).sum((1, 2))

    def sample(self, prediction, key):
        chance = jax.nn.sigmoid(prediction)
        return jr.bernoulli(key, chance).astype(jnp.float32)[:, 0]


def test_draws_are_as_frequent_as_they_are_likely():
    """Pairs of steps are, so that what is fed back is what was drawn."""
    model = built({"x": Numbers(1, 1)}, {"x": Coin(1, 1)}, 2, num_layers=1)
    steps = eqx.filter_jit(jax.vmap(lambda key: sample_steps(model, 2, key=key)["x"]))
    drawn = np.asarray(steps(jr.split(jr.key(0), 2048)))[:, :, 0]
    found = np.bincount((2 * drawn[:, 0] + drawn[:, 1]).astype(int), minlength=4)
    pairs = jnp.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])[..., None]
    nats = eqx.filter_jit(jax.vmap(lambda pair: model.log_prob({"x": pair})))(pairs)
    expected = 2048 * np.exp(nats)
    assert expected.sum() == pytest.approx(2048, rel=1e-5)
    assert expected.min() > 5
    surprise = np.sum((found - expected) ** 2 / expected)
    assert surprise < 3 + 4 * np.sqrt(2 * 3)


def test_without_feedback_any_number_of_steps_are_advanced():
    model = labeller()
    audio = {"audio": some_streams(0)["audio"]}
    assert (model.late, model.at_once, model.predicted) == ([], ["audio"], ["label"])
    state, found = advance(model, model.init_state(), audio)
    assert state.last == {}
    readout = written_out(model, audio)["label"]
    assert_close(found["label"], readout.astype(np.float32))
    draw = {"label": likeliest}
    drawn = sample_steps(model, STEPS, audio, draw=draw, key=jr.key(0))["label"]
    assert np.array_equal(drawn, readout.argmax(-1))


def test_steps_are_drawn_of_what_is_given():
    model, audio = translator(), {"audio": some_streams(0)["audio"]}
    with pytest.raises(ValueError, match="`num_steps` = 4 steps, got 6"):
        sample_steps(model, 4, audio, key=jr.key(0))
    with pytest.raises(ValueError, match=r"must be \['audio'\], got \[\]"):
        sample_steps(model, 4, key=jr.key(0))
    with pytest.raises(ValueError, match="`num_steps` must be at least 1, got 0"):
        sample_steps(model, 0, audio, key=jr.key(0))
    state, context = model.init_state(), some_context(0)
    with pytest.raises(ValueError, match="`context` must be `None` where a `state`"):
        sample_steps(model, 6, audio, state=state, context=context, key=jr.key(0))
    with pytest.raises(ValueError, match=r"among \['symbols'\], got \['audio'\]"):
        sample_steps(model, 6, audio, draw={"audio": likeliest}, key=jr.key(0))


def test_streams_of_the_same_prediction_are_drawn_apart():
    outputs = {name: SymbolOutput(7) for name in "ab"}
    logits = dict.fromkeys("ab", jnp.zeros((32, 1, 7)))
    draws = StreamsOut(outputs, 1, key=jr.key(0)).sample(logits, key=jr.key(1))
    assert np.mean(draws["a"] == draws["b"]) < 0.5
