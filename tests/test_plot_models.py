"""Pictures of models: what they draw is what the models have, and no more."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from perceiver_eqx import StepMask, plot
from tests.helpers import assert_close
from tests.models import SIZES, STEPS, TOKENS, byte_lm, perceiver, perceiver_inputs
from tests.test_plot import axes, drawn


@pytest.fixture(autouse=True)
def _figures_of_their_own(monkeypatch):
    monkeypatch.setattr(plt, "figure", Figure)


def test_what_a_window_leaves_out_of_the_past_is_hatched_and_nothing_else():
    mask = StepMask(5, 5, 2, 3, 2)
    ax = drawn(plot.plot_mask(mask, ax=axes()))
    hatched = np.zeros(mask.shape, bool)
    for bar in ax.patches:
        first, row = round(bar.get_x() + 0.5), round(bar.get_y() + 0.5)
        hatched[row, first : first + round(bar.get_width())] = True
    assert np.array_equal(hatched, StepMask(5, 5, 2, 3).dense() & ~mask.dense())


def test_a_context_stands_beside_the_keys_and_not_among_them():
    ax = drawn(plot.plot_mask(StepMask(3, 3, 1, 1), context=4, ax=axes()))
    keys, context = ax.images
    assert context.get_extent()[1] < keys.get_extent()[0]
    assert context.get_extent()[1] - context.get_extent()[0] == 4


def test_the_masks_of_a_model_are_drawn_side_by_side():
    model = perceiver(None, latent_window=(3, None))
    masks = plot.model_masks(model, STEPS)
    assert [mask.window for mask in masks.values()] == [None, 3, None]
    assert next(iter(masks.values())).shape == (
        STEPS * SIZES["num_latents"],
        STEPS * TOKENS,
    )
    figure = plot.plot_model_masks(model, STEPS)
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes] == list(masks)
    explained = [text.get_text() for text in figure.legends[0].get_texts()]
    assert explained == ["seen", "past, outside the window", "not seen"]
    with pytest.raises(ValueError, match="at least one mask.* got 0 and 0"):
        plot.plot_masks({})


def test_attention_weights_are_those_of_steps_that_are_seen_and_sum_to_one():
    model = perceiver(None, latent_window=(3, None))
    weights = plot.attention_weights(model, perceiver_inputs(0)[0])
    for layer, window in enumerate((3, None)):
        seen = np.asarray(StepMask(STEPS, STEPS, 1, 1, window).dense())
        assert np.all(weights[layer][:, ~seen] == 0)
        assert np.all(weights[layer][:, seen] > 0)
    assert_close(weights.sum(-1), jnp.ones(weights.shape[:-1]))
    plot.plot_weights(weights).canvas.draw()


def test_a_layer_attends_what_the_layers_before_it_give():
    """Which a first layer does not change whose branches give nothing."""

    def weights(blocks):
        swapped = eqx.tree_at(lambda model: model.processor.blocks, model, blocks)
        return plot.attention_weights(swapped, inputs)

    model, inputs = perceiver(None), perceiver_inputs(0)[0]
    blocks = model.processor.blocks
    turned = jax.tree.map(lambda x: x[::-1], blocks)
    silent = jax.tree.map(lambda x: x.at[0].set(0), blocks)
    assert_close(weights(silent)[1], weights(turned)[0])
    assert jnp.abs(weights(blocks)[1] - weights(turned)[0]).max() > 1e-3


@given(st.lists(st.integers(1, 5), max_size=5), st.integers(1, 30))
def test_each_layer_reaches_a_window_further(windows, steps):
    found = plot.reached(windows, steps)
    for layer, row in enumerate(found):
        reach = 1 + sum(window - 1 for window in windows[layer:])
        assert np.array_equal(row, np.arange(steps) >= steps - reach)


def test_a_layer_that_sees_all_reaches_all():
    assert plot.reached((2, None), 7)[0].all()
    ax = drawn(plot.plot_reach((2, None), 7, ax=axes(), title="reach"))
    told = [label.get_text() for label in ax.get_yticklabels()]
    assert told[1] == "into layer 1, which sees all"
    assert len(told) == 3


def test_bars_are_the_half_lives_of_rates():
    model = perceiver(2)
    ax = drawn(plot.plot_rates(model, ax=axes()))
    rate = model.encoder.rate
    assert rate is not None
    half_lives = np.array([bar.get_height() for bar in ax.patches])
    np.testing.assert_allclose(np.exp(-rate.ravel() * half_lives), 0.5, rtol=1e-5)
    with pytest.raises(ValueError, match="`recency=True`"):
        plot.plot_rates(perceiver(2, recency=False), ax=axes())


@given(st.integers(1, 300), st.integers(1, 50))
def test_each_byte_is_in_one_point_of_the_curve(size, bins):
    bits = np.arange(size) + 1.0
    (line,) = plot.plot_bits(bits, bins=bins, ax=axes()).lines
    means = line.get_ydata()
    assert 1 <= len(means) <= bins
    # Means of runs of consecutive numbers tell where these begin and end.
    end = 0
    for mean in means:
        end = round(2 * mean) - end - 1
    assert end == size


def test_no_byte_makes_no_curve():
    with pytest.raises(ValueError, match="at least one byte .* got 0 and 40"):
        plot.plot_bits(np.zeros(0), ax=axes())


def test_a_diagram_has_a_box_for_each_part():
    model = byte_lm(3, context=True)
    texts = [text.get_text() for text in drawn(plot.diagram(model, ax=axes())).texts]
    numbers = sum(x.size for x in jax.tree.leaves(model))
    assert f"{numbers:,} parameters" in texts
    assert "encoder: CausalEncoder" in texts
