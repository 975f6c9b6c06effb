"""Draws the pictures of the README: `python notebooks/pictures/draw.py`.

They are made of a model and its masks, so they show what the code does.
"""

from pathlib import Path

import equinox as eqx
import jax.random as jr
import matplotlib


matplotlib.use("svg")
# The same file from the same code.
matplotlib.rcParams |= {"svg.hashsalt": "perceiver-eqx", "font.size": 11}

import perceiver_eqx as pqx  # noqa: E402
from perceiver_eqx.plot import diagram, plot_model_masks  # noqa: E402


def draw(folder: Path) -> None:
    """Writes each picture as an SVG."""
    sizes = {
        "num_latents": 2,
        "num_layers": 2,
        "num_heads": 2,
        "latent_window": (3, None),
    }
    masked = eqx.filter_eval_shape(
        lambda key: pqx.CausalPerceiver(
            8, 8, tokens_per_step=3, outputs_per_step=3, latent_dim=8, **sizes, key=key
        ),
        jr.key(0),
    )
    model = eqx.filter_eval_shape(
        lambda key: pqx.ByteLM(
            bytes_per_step=16, latent_dim=512, use_context=True, **sizes, key=key
        ),
        jr.key(0),
    )
    pictures = {
        "masks": plot_model_masks(masked, 6),
        "model": diagram(model).figure,
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(__file__).parent)
