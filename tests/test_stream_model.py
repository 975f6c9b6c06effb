"""`StreamModel`: the causal contract for every adapter, and the ways through time."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import StreamModel, SymbolOutput
from perceiver_eqx.adapters.streams import StreamInput, check_adapters, check_streams
from tests.helpers import TOLERANCE, assert_close, relative_error
from tests.strategies import cuts, seeds
from tests.stream_models import (
    AT_ONCE,
    LATE,
    SIZES,
    STEPS,
    Normal,
    Numbers,
    advance,
    built,
    changed,
    everything,
    for_translator,
    of_numbers,
    piece,
    run,
    some_context,
    some_numbers,
    some_streams,
    translator,
    written_out,
)


windows = st.sampled_from([None, 2])


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


@pytest.mark.parametrize("window", [None, 2])
def test_it_is_a_perceiver_between_adapters(window):
    model, streams, context = everything(window), some_streams(0), some_context(0)
    found = run(model, streams, context)
    for name, readout in written_out(model, streams, context).items():
        adapter = model.outputs.adapters[name]
        assert_close(found[name], adapter(jnp.asarray(readout, jnp.float32)))


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
    in_shape = eqx.filter_eval_shape(model.init_state, context)
    assert in_shape.num_bytes() == state.num_bytes()


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


def test_it_computes_in_the_dtype_it_is_told_and_predicts_in_float32():
    model, context = translator(dtype="bfloat16"), some_context(0)
    streams = for_translator(some_streams(0))
    assert model.init_state(context).last["symbols"].dtype == jnp.bfloat16
    found = run(model, streams, context)["symbols"]
    assert found.dtype == jnp.float32
    expected = run(translator(), streams, context)["symbols"]
    # A few times one rounding, of as many operations in a row.
    assert 0 < relative_error(found, expected) <= 4 * TOLERANCE["bfloat16"]


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


def test_a_step_is_predicted_and_put_by_itself():
    model, streams = translator(), for_translator(some_streams(0))
    state, symbols = model.init_state(), {"symbols": streams["symbols"]}
    with pytest.raises(ValueError, match=r"must be \['audio'\], got \['symbols'\]"):
        model.predict(state, symbols)
    with pytest.raises(ValueError, match="first axis of 1, got 6 steps"):
        model.predict(state, {"audio": streams["audio"]})
    with pytest.raises(ValueError, match=r"must be \['symbols'\], got \['audio'\]"):
        model.put(state.perceiver, {"audio": streams["audio"]})
    with pytest.raises(ValueError, match="first axis of 1, got 6 steps"):
        model.put(state.perceiver, symbols)
    plain = inspect.unwrap(StreamModel.put)  # without the checks of tests
    with pytest.raises(TypeError, match="the first of what `predict` gave, got Stream"):
        plain(model, state, symbols)


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
