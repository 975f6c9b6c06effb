import importlib
import inspect
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from perceiver_eqx import CausalPerceiver, StepMask, plot
from perceiver_eqx.plot import dependence, plot_dependence, plot_mask
from tests.helpers import normals


STEPS, TOKENS, INPUT_DIM, CONTEXT_DIM, SOURCE = 4, 2, 3, 2, 3
ALLOWED = np.tril(np.ones((STEPS, STEPS), bool))


def axes():
    """Axes of a figure of their own: pyplot, and its global state, stay out of it."""
    return Figure(layout="constrained").subplots()


def drawn(ax):
    """Draws the figure, so that a warning while drawing fails the test."""
    ax.figure.canvas.draw()
    return ax


def cells(image):
    return np.ma.asarray(image.get_array())


def labels(axis, minor=False):
    return [label.get_text() for label in axis.get_ticklabels(minor=minor)]


def marked(ax, label):
    """The cells (row, column) that carry a mark."""
    [marks] = [marks for marks in ax.collections if marks.get_label() == label]
    return {(int(row), int(column)) for column, row in np.asarray(marks.get_offsets())}


def test_a_step_mask_is_drawn_as_it_is_and_labelled_by_step_and_inside_a_step():
    mask = StepMask(3, 4, 2, 3, query_start=1)
    ax = drawn(plot_mask(mask, key_name="token", ax=axes(), title="a mask"))
    assert np.array_equal(cells(ax.images[0]), mask.dense())
    assert (labels(ax.yaxis), labels(ax.xaxis)) == (list("123"), list("0123"))
    assert labels(ax.yaxis, minor=True) == list("01" * 3)
    assert labels(ax.xaxis, minor=True) == list("012" * 4)
    assert np.array_equal(ax.get_xticks(), [1, 4, 7, 10])
    assert ax.get_xlabel() == "key: step, token"
    assert ax.get_title() == "a mask"


def test_lines_are_at_the_borders_of_steps():
    ax = drawn(plot_mask(StepMask(3, 4, 2, 3), ax=axes()))
    across, down = (
        [np.asarray(path.vertices) for path in lines.get_paths()]
        for lines in ax.collections
    )
    assert [line[0, 1] for line in across] == [1.5, 3.5]
    assert [line[0, 0] for line in down] == [2.5, 5.5, 8.5]


def test_an_array_is_drawn_as_it_is_and_a_long_axis_skips_labels():
    allowed = np.tri(30, dtype=bool)
    ax = drawn(plot_mask(allowed, ax=axes()))
    assert np.array_equal(cells(ax.images[0]), allowed)
    assert labels(ax.xaxis) == [str(i) for i in range(0, 30, 3)]


def test_without_axes_it_draws_on_a_new_figure(monkeypatch):
    monkeypatch.setattr(plt, "figure", Figure)
    one, other = plot_mask(ALLOWED), plot_dependence(1.0 * ALLOWED, ALLOWED)
    assert drawn(one).figure is not drawn(other).figure


def test_by_gradient_a_model_sees_its_past_and_the_context_and_exactly_no_more():
    shapes = eqx.filter_eval_shape(
        lambda: CausalPerceiver(
            INPUT_DIM,
            2,
            tokens_per_step=TOKENS,
            outputs_per_step=1,
            num_latents=1,
            latent_dim=4,
            num_layers=1,
            num_heads=1,
            latent_window=1,
            context_dim=CONTEXT_DIM,
            key=jr.key(0),
        )
    )
    leaves, tree = jax.tree.flatten(shapes)
    noise = [jnp.asarray(normals(i, *leaf.shape)) for i, leaf in enumerate(leaves)]
    inputs = jnp.asarray(normals(0, STEPS, TOKENS, INPUT_DIM))
    context = jnp.asarray(normals(1, SOURCE, CONTEXT_DIM))
    by_input, by_context = dependence(jax.tree.unflatten(tree, noise), inputs, context)
    assert np.array_equal(by_input > 0, ALLOWED)
    assert by_context is not None
    assert by_context.shape == (STEPS, SOURCE)
    assert np.all(by_context > 0)


def test_dependence_sums_over_tokens_and_channels_and_has_output_steps_as_rows():
    inputs = jnp.asarray(normals(0, STEPS, TOKENS, INPUT_DIM))
    weight = jnp.arange(1.0, 7.0).reshape(TOKENS, INPUT_DIM)

    def next_step(inputs, context):
        later = jnp.concatenate([inputs[1:], jnp.zeros_like(inputs[:1])])
        return -jnp.sum(later * weight, (1, 2))[:, None, None]

    by_input, by_context = dependence(next_step, inputs)
    assert by_context is None
    size = float(by_input[0, 1])
    assert size > 0
    assert np.allclose(by_input, size * np.eye(STEPS, k=1))
    projection = abs(float(jr.normal(jr.key(0), (1, 1))[0, 0]))
    assert np.isclose(size, 21 * projection)


def test_bytes_have_no_gradient():
    plain = inspect.unwrap(dependence)  # without the checks of tests
    with pytest.raises(TypeError, match="must be floating-point to have a gradient"):
        plain(lambda x, _: x, jnp.zeros((3, 8), jnp.uint8))


def test_a_leak_and_a_dead_path_are_marked_where_they_are():
    measured = np.where(ALLOWED, 1.0, 0.0)
    measured[0, 2], measured[3, 1] = 1e-30, 0.0
    ax = drawn(plot_dependence(measured, ALLOWED, ax=axes(), title="wrong"))
    assert marked(ax, plot.LEAK) == {(0, 2)}
    assert marked(ax, plot.DEAD) == {(3, 1)}
    background, leaks, seen = map(cells, ax.images)
    assert np.array_equal(background, ALLOWED)
    assert np.argwhere(~np.ma.getmaskarray(leaks)).tolist() == [[0, 2]]
    assert np.array_equal(~np.ma.getmaskarray(seen), ALLOWED & (measured > 0))
    [legend] = ax.figure.legends
    explained = [text.get_text() for text in legend.get_texts()]
    assert {plot.LEAK, plot.DEAD} <= set(explained)


@pytest.mark.parametrize("measured", [np.zeros((2, 3)), np.full((2, 3), 2.0)])
def test_nothing_measured_and_one_value_measured_can_be_drawn(measured):
    allowed = np.ones((2, 3), bool)
    ax = plot_dependence(
        measured, allowed, column_name="context token", legend=False, ax=axes()
    )
    assert len(marked(drawn(ax), plot.DEAD)) == (0 if measured.any() else 6)
    assert ax.get_xlabel() == "context token"
    assert not ax.figure.legends


def test_a_mask_of_another_shape_is_refused():
    # Called as from a session without run-time type checks, which refuse it first.
    plain = inspect.unwrap(plot_dependence)
    with pytest.raises(ValueError, match="must match in shape"):
        plain(np.zeros((2, 3)), ALLOWED, ax=axes())


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_what_is_no_dependence_is_refused(value):
    measured = np.where(ALLOWED, value, 0.0)
    with pytest.raises(ValueError, match="`measured` must be finite"):
        plot_dependence(measured, ALLOWED, ax=axes())


def test_the_module_imports_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("perceiver_eqx.plot")]:
        monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("perceiver_eqx.plot")
    with pytest.raises(ImportError, match="matplotlib"):
        module.plot_mask(StepMask(1, 1, 1, 1))
