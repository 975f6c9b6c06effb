"""Small rows for the tests of the comparison, built by name."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from tests.benchmarks.quality.models import (
    Model,
)
from tests.benchmarks.quality.rows import find_row


# Of a small row: 32 bytes, of which the Perceiver AR predicts the last 8.
SMALL = {
    "tiny-transformer": "tiny-transformer:dim=16,context=32",
    "tiny-transformer with n-grams": "tiny-transformer:dim=16,context=32,"
    "ngrams=(2,3),ngram_rows=64",
    "tiny-perceiver-ar": "tiny-perceiver-ar:dim=16,context=32,targets=8",
    "tiny-patch": "tiny-patch:dim=16,local_dim=16,context=32",
    "tiny-combined": "tiny-combined:latent_dim=16,context=32",
    "tiny-variant": "tiny-variant:latent_dim=16,context=32,look_window=2,"
    "read_window=None,tied=True,half_lives=(1,8),residual_scale=1.0,"
    "ngrams=(3,),ngram_rows=64",
    "tiny-words": "tiny-words:latent_dim=16,context=32",
}


def small(name: str, changes: str = "") -> Model:
    build = find_row(SMALL[name] + changes).build
    return eqx.filter_jit(build)(jr.key(0))


def compiled(model: Model):
    return jax.jit(lambda data: model.bits(data))


def data_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, count).astype(np.uint8)
