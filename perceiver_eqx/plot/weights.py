"""Attention weights between the latents of steps, of each layer and head."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from ..attention.dense import attention_scores
from ..attention.masks import StepMask
from ..model import CausalPerceiver
from .drawing import BLUES, UNSEEN, number


if TYPE_CHECKING:
    import matplotlib.figure


@eqx.filter_jit
def attention_weights(
    model: CausalPerceiver,
    inputs: Float[Array, "steps tokens input_dim"],
    context: Float[Array, "source context_dim"] | None = None,
) -> Float[Array, "layers heads steps steps"]:
    """How much of its attention each step gives to each other, in every layer and head
    of the processor: summed over the latents that are asked, averaged over those that
    ask, so that each step's weights sum to 1.

    Args:
        inputs, context: as of a call of the model. Few: all weights are held.
    """
    state = model.keep_nothing(context, inputs.dtype)
    _, x = model.encode(state, inputs)
    asked = model.questions(state, jnp.arange(x.shape[0]), x.dtype)
    (nothing, *_), found = state.caches, []
    for block, window in model.processor.layers():
        found.append(_weights(block, x, window))
        x, _ = block(x, nothing.of_layer(0), 0, window, asked)
    return jnp.stack(found)


def plot_weights(
    weights: Float[Array | np.ndarray, "layers heads steps steps"],
) -> "matplotlib.figure.Figure":
    """Draw attention weights, a row of pictures for each layer, one for each head.

    Args:
        weights: as `attention_weights` gives them. All share one scale, that of the
            square root of a weight, so that small ones are seen beside large ones.
    """
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    weights = np.asarray(weights, np.float64)
    layers, heads, steps, _ = weights.shape
    size = 2.3 * heads + 1.4, 2.3 * layers + 0.5
    figure = plt.figure(figsize=size, layout="constrained")
    colours = {
        "cmap": LinearSegmentedColormap.from_list("", BLUES),
        "norm": PowerNorm(0.5, 0, 1),
    }
    axes = figure.subplots(layers, heads, squeeze=False)
    for (layer, head), ax in np.ndenumerate(axes):
        # What is not seen has no weight at all.
        own = weights[layer, head]
        ax.imshow(np.ma.array(own, mask=own == 0), **colours)
        ax.set_facecolor(UNSEEN)
        number(ax.yaxis, "query step" if head == 0 else "", steps)
        number(ax.xaxis, "key step" if layer == layers - 1 else "", steps)
        ax.set_title(f"layer {layer}, head {head}", fontsize="medium")
    scale = ScalarMappable(**colours)
    figure.colorbar(scale, ax=axes, label="attention weight", shrink=0.6)
    return figure


def _weights(block, x: Array, window: int | None) -> Array:
    steps, rows = x.shape[:2]
    both = block.queries_keys(block.norm(x), jnp.arange(steps))
    query, key = (rearrange(each, "t c h d -> (t c) h d") for each in both)
    allowed = StepMask(steps, steps, rows, rows, window).dense()
    weights = jax.nn.softmax(attention_scores(query, key, allowed, jnp.float32), -1)
    by_step = rearrange(weights, "h (t c) (u e) -> h t c u e", c=rows, e=rows)
    return by_step.sum(-1).mean(2)
