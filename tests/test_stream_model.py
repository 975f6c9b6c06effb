"""`StreamModel`: the causal contract for every adapter, and the ways through time."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import (
    FrameInput,
    StreamModel,
    SwitchOutput,
    SymbolInput,
    SymbolOutput,
    ValueInput,
    ValueOutput,
    sample_steps,
)
from perceiver_eqx.adapters.grid import FourierPositions, GridInput, LearnedGrid
from perceiver_eqx.adapters.streams import (
    StreamInput,
    check_adapters,
    check_streams,
)
from perceiver_eqx.adapters.text import TextInput
from perceiver_eqx.stream_model import _parted
from tests import oracle
from tests.helpers import (
    TOLERANCE,
    assert_close,
    assert_gradients_close,
    normals,
    relative_error,
)
from tests.models import drawn
from tests.strategies import cuts, seeds


STEPS, SOURCE = 6, 5
SIZES = {"num_latents": 2, "latent_dim": 16, "num_layers": 2, "num_heads": 2}
SIZES |= {"token_dim": 6}
LATE = "notes", "sound", "symbols", "video"
AT_ONCE = "audio", "movie"
ONLY_OUT = ("label",)
windows = st.sampled_from([None, 2])


SYMBOLS = drawn(SymbolInput, num_symbols=5, dim=3, symbols_per_step=2)
CONTEXT = drawn(TextInput, max_symbols=9, dim=4, num_symbols=11)


def built(inputs, outputs, window, **options) -> StreamModel:
    """A model every parameter of which matters."""
    options = {**SIZES, "latent_window": window, **options}
    return drawn(StreamModel, inputs=inputs, outputs=outputs, **options)


@functools.cache
def everything(window: int | None = 2, **options) -> StreamModel:
    """A model of every adapter, with streams seen late, at once and not at all."""
    blocks = drawn(LearnedGrid, shape=(2, 1), table_dim=3)
    inputs = {
        "symbols": SYMBOLS,
        "notes": ValueInput(4, bits=1),
        "sound": ValueInput(4, tokens_per_step=2, bits=16),
        "video": FrameInput(GridInput(1, blocks, block=(1, 2)), (2, 2)),
        "audio": ValueInput(3),
        "movie": FrameInput(GridInput(1, FourierPositions(1, (2, 2))), (2, 2)),
    }
    outputs = {
        "symbols": SymbolOutput(5, symbols_per_step=2),
        "notes": SwitchOutput(4),
        "sound": ValueOutput(4, outputs_per_step=2, bits=16, num_components=2),
        "video": ValueOutput((2, 2, 1), num_components=1),
        "label": SymbolOutput(3),
    }
    return built(inputs, outputs, window, context=CONTEXT, **options)


@functools.cache
def translator(window: int | None = 2, **options) -> StreamModel:
    """Symbols out of sounds that arrive with them and out of a text."""
    inputs = {"symbols": SYMBOLS, "audio": ValueInput(3)}
    outputs = {"symbols": SymbolOutput(5, symbols_per_step=2)}
    options = {"context": CONTEXT, "num_layers": 1, **options}
    return built(inputs, outputs, window, **options)


@functools.cache
def labeller() -> StreamModel:
    """A label of every piece of sound, without knowing those before."""
    inputs, outputs = {"audio": ValueInput(3)}, {"label": SymbolOutput(3)}
    return built(inputs, outputs, 2, num_layers=1)


def for_translator(streams):
    return {name: streams[name] for name in ("symbols", "audio")}


def some_streams(seed: int, steps: int = STEPS):
    rng = np.random.default_rng(seed)
    streams = {
        "symbols": rng.integers(5, size=(steps, 2)),
        "notes": rng.random((steps, 4)) < 0.5,
        "sound": rng.integers(2**16, size=(steps, 4)),
        "video": rng.integers(256, size=(steps, 2, 2, 1), dtype=np.uint8),
        "label": rng.integers(3, size=(steps, 1)),
        "audio": rng.normal(size=(steps, 3)).astype(np.float32),
        "movie": rng.normal(size=(steps, 2, 2, 1)).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, streams)


def some_context(seed: int, count: int = SOURCE):
    return jnp.asarray(np.random.default_rng(seed).integers(11, size=count))


def changed(name: str, x):
    """The same kind of data, no number of which is the same."""
    if x.dtype == bool:
        return ~x
    kinds = {"symbols": 5, "label": 3, "sound": 2**16, "video": 256}
    return x + 1 if name not in kinds else (x + kinds[name] // 2) % kinds[name]


@eqx.filter_jit
def run(model, streams, context=None, context_count=None):
    return model(streams, context, context_count=context_count)


@eqx.filter_jit
def advance(model, state, streams):
    return model.advance(state, streams)


def piece(streams, start: int, stop: int):
    return {name: x[start:stop] for name, x in streams.items()}


def differs(one, other):
    """For each step, whether any of a prediction is different."""
    found = [
        np.any(np.asarray(a != b).reshape(a.shape[0], -1), 1)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    return np.any(found, 0)


@settings(max_examples=40)
@given(seeds, st.sampled_from(LATE + AT_ONCE), st.integers(0, STEPS - 1), windows)
def test_a_step_changes_predictions_from_it_on_and_its_own_if_it_is_not_predicted(
    seed, name, step, window
):
    model, streams = everything(window), some_streams(seed)
    context = some_context(seed)
    new = streams[name].at[step].set(changed(name, streams[name][step]))
    before = run(model, streams, context)
    after = run(model, streams | {name: new}, context)
    first = step + (name in LATE)
    for output in model.predicted:
        seen = differs(before[output], after[output])
        assert not np.any(seen[:first]), output
        assert np.all(seen[first:]), output


def test_the_context_is_seen_by_all_steps_and_what_is_only_predicted_by_none():
    model, streams, context = everything(), some_streams(0), some_context(0)
    before = run(model, streams, context)
    other = run(model, streams, (context + 1) % 11)
    label = {"label": changed("label", streams["label"])}
    again = run(model, streams | label, context)
    for output in model.predicted:
        assert np.all(differs(before[output], other[output]))
        assert not np.any(differs(before[output], again[output]))


class Numbers(eqx.Module):
    """A user's own adapter, without anything of the library: numbers as they are."""

    tokens_per_step: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __call__(self, inputs):
        return inputs.reshape(-1, self.tokens_per_step, self.dim)


class Normal(eqx.Module):
    """A user's own adapter too: numbers of a normal distribution of deviation 1."""

    outputs_per_step: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __call__(self, readout):
        return readout

    def log_prob(self, prediction, targets):
        squares = (prediction - targets.reshape(prediction.shape)) ** 2
        return -(squares + np.log(2 * np.pi)).sum((1, 2)) / 2

    def sample(self, prediction, key):
        return prediction + jr.normal(key, prediction.shape)


class Coin(Normal):
    """Zeros and ones."""

    def log_prob(self, prediction, targets):
        signs = 2 * targets.reshape(prediction.shape) - 1
        return jax.nn.log_sigmoid(signs * prediction).sum((1, 2))

    def sample(self, prediction, key):
        chance = jax.nn.sigmoid(prediction)
        return jr.bernoulli(key, chance).astype(jnp.float32)[:, 0]


@functools.cache
def of_numbers(window: int | None = 2, **options) -> StreamModel:
    inputs = {"a": Numbers(2, 3), "b": Numbers(1, 2), "c": Numbers(1, 1)}
    outputs = {"b": Normal(2, 1), "a": Normal(1, 6), "d": Normal(1, 1)}
    return built(inputs, outputs, window, **options)


def some_numbers(seed: int, steps: int = STEPS):
    shapes = {"a": (2, 3), "b": (2,), "c": (1,), "d": (1, 1)}
    return {
        name: jnp.asarray(normals(seed + i, steps, *shape))
        for i, (name, shape) in enumerate(shapes.items())
    }


def test_by_gradient_predictions_depend_on_all_they_may_and_on_no_more():
    model, streams = of_numbers(), some_numbers(0)

    @eqx.filter_jit
    def dependence(streams):
        def of_steps(streams):
            predictions = model(streams)
            return {name: jnp.abs(x).sum((1, 2)) for name, x in predictions.items()}

        return jax.jacrev(of_steps)(streams)

    found = dependence(streams)
    own = np.eye(STEPS, dtype=bool)
    before = np.tril(np.ones_like(own)) & ~own
    for output, by_input in found.items():
        for name, slopes in by_input.items():
            slopes = np.abs(slopes).reshape(STEPS, STEPS, -1).sum(-1)
            allowed = {"c": before | own, "d": own & ~own}.get(name, before)
            assert np.all(slopes[~allowed] == 0), (output, name)
            assert np.all(slopes[allowed] > 0), (output, name)


def written_out(model, streams, context=None):
    """What is read of the model's latents, by stream, in float64 NumPy."""
    rows = []
    for name, entry in sorted(model.inputs.entries.items()):
        tokens = np.asarray(entry.adapter(streams[name]), np.float64)
        x = oracle.linear(entry.linear, tokens) + oracle.array(entry.places.table)
        if name in model.outputs.adapters:
            x = np.concatenate([oracle.array(model.begins[name])[None], x[:-1]])
        rows.append(x)
    source = None if context is None else model.context(context)
    readout = oracle.causal_perceiver(model.perceiver, np.concatenate(rows, 1), source)
    found, start = {}, 0
    for name, adapter in sorted(model.outputs.adapters.items()):
        part = readout[:, start : start + adapter.outputs_per_step]
        found[name] = oracle.linear(model.outputs.heads[name], part)
        start += adapter.outputs_per_step
    return found


@pytest.mark.parametrize("window", [None, 2])
def test_it_is_a_perceiver_between_adapters(window):
    model, streams, context = everything(window), some_streams(0), some_context(0)
    found = run(model, streams, context)
    for name, readout in written_out(model, streams, context).items():
        adapter = model.outputs.adapters[name]
        assert_close(found[name], adapter(jnp.asarray(readout, jnp.float32)))


def test_its_likelihood_is_that_of_all_streams():
    model, streams = of_numbers(), some_numbers(0)
    expected = 0.0
    for name, mean in written_out(model, streams).items():
        squares = (mean.ravel() - oracle.array(streams[name]).ravel()) ** 2
        expected -= np.sum(squares + np.log(2 * np.pi)) / 2
    assert_close(log_prob(model, streams), expected)


@settings(max_examples=10)
@given(seeds, cuts(STEPS))
def test_however_a_sequence_is_cut_the_predictions_are_equal(seed, cut):
    model, streams, context = everything(), some_streams(seed), some_context(seed)
    state = model.init_state(context)
    found, start = [], 0
    for length in cut:
        state, more = advance(model, state, piece(streams, start, start + length))
        found.append(more)
        start += length
    found = jax.tree.map(lambda *x: jnp.concatenate(x), *found)
    assert_close(found, run(model, streams, context))
    assert state.num_bytes() == model.init_state(context).num_bytes()


def test_a_step_predicted_and_then_put_is_a_step():
    model, streams, context = everything(), some_streams(0), some_context(0)
    state = model.init_state(context)
    expected = run(model, streams, context)
    predict = eqx.filter_jit(lambda model, state, one: model.predict(state, one))
    put = eqx.filter_jit(lambda model, state, one: model.put(state, one))
    for step in range(STEPS):
        one = piece(streams, step, step + 1)
        known = {name: one[name] for name in AT_ONCE}
        other, _ = advance(model, state, one)
        perceiver, found = predict(model, state, known)
        state = put(model, perceiver, {name: one[name] for name in LATE})
        assert_close(state, other)
        assert_close(found, piece_of(expected, step))


def piece_of(predictions, step: int):
    return jax.tree.map(lambda x: x[step : step + 1], predictions)


@eqx.filter_jit
def log_prob(model, streams, context=None, **counts):
    return model.log_prob(streams, context, **counts)


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


@pytest.mark.parametrize("chunk_steps", [None, 5])
def test_steps_that_do_not_count_change_no_number(chunk_steps):
    model, streams = translator(), for_translator(some_streams(0))
    other = {name: x.at[4:].set(changed(name, x)[4:]) for name, x in streams.items()}
    context, counts = some_context(0), {"steps_count": jnp.int32(4)}
    one, same = (
        log_prob(model, x, context, chunk_steps=chunk_steps, **counts)
        for x in (streams, other)
    )
    assert one == same
    assert_close(one, log_prob(model, piece(streams, 0, 4), context))


def test_a_context_that_is_filled_up_changes_no_number():
    model, context, count = translator(), some_context(0), jnp.int32(SOURCE)
    streams = for_translator(some_streams(0))
    one, same = (
        run(model, streams, jnp.concatenate([context, some_context(seed, 3)]), count)
        for seed in (1, 2)
    )
    assert not np.any(differs(one, same))
    assert_close(one, run(model, streams, context))


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


def test_it_computes_in_the_dtype_it_is_told_and_predicts_in_float32():
    model, context = translator(dtype="bfloat16"), some_context(0)
    streams = for_translator(some_streams(0))
    assert model.init_state(context).last["symbols"].dtype == jnp.bfloat16
    found = run(model, streams, context)["symbols"]
    assert found.dtype == jnp.float32
    expected = run(translator(), streams, context)["symbols"]
    # A few times one rounding, of as many operations in a row.
    assert 0 < relative_error(found, expected) <= 4 * TOLERANCE["bfloat16"]


def test_dropout_acts_where_a_key_is_given():
    model = translator(dropout=0.4)
    streams = for_translator(some_streams(0))
    nats = eqx.filter_jit(lambda key: model.log_prob(streams, key=key, chunk_steps=2))
    one, again, other = (nats(jr.key(seed)) for seed in (0, 0, 1))
    assert one == again != other


BAD_STREAMS = [
    ({"audio": None}, r"the streams must be \['audio', 'symbols'\], got \['symbols'\]"),
    ({"label": 0}, r"got \['audio', 'label', 'symbols'\]"),
    ({"audio": jnp.zeros((4, 3))}, "as many steps, got {'audio': 4, 'symbols': 6}"),
    ({"audio": 0.5}, "'audio' must be an array whose first axis"),
]


@pytest.mark.parametrize(("change", "message"), BAD_STREAMS)
def test_streams_that_are_not_the_models_are_refused(change, message):
    streams = for_translator(some_streams(0)) | change
    streams = {name: x for name, x in streams.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        check_streams_of(translator(), streams)


def check_streams_of(model, streams):
    """As a user meets it, whom types do not stop."""
    return inspect.unwrap(check_streams)(streams, model.inputs.entries, model.predicted)


def test_no_step_is_refused():
    streams = piece(for_translator(some_streams(0)), 0, 0)
    with pytest.raises(ValueError, match="at least 1 step, got none"):
        translator()(streams)


def test_an_error_of_an_adapter_tells_its_stream():
    streams = for_translator(some_streams(0))
    with pytest.raises(ValueError, match="axis_0=3.*\n.*the stream 'audio'"):
        translator()(streams | {"audio": streams["audio"][:, :2]})


def test_the_likelihood_needs_what_is_predicted():
    model, audio = labeller(), {"audio": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"must be \['audio', 'label'\], got \['au"):
        model.log_prob(audio)
    streams = audio | {"label": jnp.zeros((2, 1), int)}
    with pytest.raises(ValueError, match="`chunk_steps` must be at least 1, got 0"):
        model.log_prob(streams, chunk_steps=0)


def test_a_step_is_predicted_and_put_by_itself():
    model, streams = translator(), for_translator(some_streams(0))
    state, symbols = model.init_state(), {"symbols": streams["symbols"]}
    with pytest.raises(ValueError, match=r"must be \['audio'\], got \['symbols'\]"):
        model.predict(state, symbols)
    with pytest.raises(ValueError, match="by itself, got 6 of them"):
        model.predict(state, {"audio": streams["audio"]})
    with pytest.raises(ValueError, match=r"must be \['symbols'\], got \['audio'\]"):
        model.put(state.perceiver, {"audio": streams["audio"]})
    with pytest.raises(ValueError, match="by itself, got 6 of them"):
        model.put(state.perceiver, symbols)


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


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": {}}, ValueError, "`inputs` must hold at least 1 stream"),
        ({"outputs": {}}, ValueError, "`outputs` must hold at least 1 stream"),
        (
            {"inputs": {"x": Numbers(1, 0)}},
            ValueError,
            r"`inputs\['x'\].dim` must be at least 1, got 0",
        ),
        ({"context": len}, TypeError, "`context` must have a `dim`"),
        ({"dtype": "int32"}, ValueError, "`dtype` must be floating-point, got 'int32'"),
        ({"dtype": "float64"}, ValueError, "jax_enable_x64"),
        ({"token_dim": 0}, ValueError, "`token_dim` must be at least 1"),
        ({"latent_dim": 10, "num_heads": 4}, ValueError, "`latent_dim` must be a"),
        ({"latent_widow": 3}, TypeError, "unexpected keyword argument 'latent_widow'"),
    ],
)
def test_models_that_cannot_be_are_refused(change, error, message):
    good = {"inputs": {"x": Numbers(1, 2)}, "outputs": {"x": Normal(1, 2)}, **SIZES}
    with pytest.raises(error, match=message):
        StreamModel(**good | change, key=jr.key(0))


def test_what_is_no_adapter_is_refused():
    check = inspect.unwrap(check_adapters)
    with pytest.raises(TypeError, match=r"`inputs\['x'\]` must have the members of"):
        check("inputs", {"x": Normal(1, 2), "y": Numbers(1, 2)}, str)
    with pytest.raises(TypeError, match="of `StreamInput`, got SymbolOutput"):
        check("inputs", {"x": SymbolOutput(3)}, StreamInput)


def test_a_context_for_a_model_without_one_is_refused():
    with pytest.raises(
        ValueError, match="`context` was given to a model built without"
    ):
        of_numbers()(some_numbers(0), some_context(0))


class Liar(Numbers):
    """Gives more tokens than it says."""

    def __call__(self, inputs):
        return jnp.concatenate([super().__call__(inputs)] * 2, 1)


def test_an_adapter_that_gives_another_shape_is_refused():
    model = built({"x": Liar(1, 2)}, {"x": Normal(1, 2)}, 2)
    message = (
        r"`StreamInput` gives` must have shape \(steps=3, tokens_per_step=1, dim=2\)"
    )
    with pytest.raises(ValueError, match=message):
        model({"x": jnp.zeros((3, 2))})
