"""Small models for tests, built once each."""

import functools
import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from perceiver_eqx import ByteLM, CausalPerceiver
from tests.helpers import normals


STEPS, TOKENS, OUTPUTS, INPUT_DIM, CONTEXT_DIM = 9, 3, 2, 5, 4
SOURCE = 6
LOCAL = {"token_dim": 6, "local_window": 4, "local_conv": 3}
LOCAL |= {"ngrams": (2, 5), "ngram_rows": 16}
SIZES = {"num_latents": 2, "latent_dim": 8, "num_layers": 2, "num_heads": 2}


@functools.cache
def perceiver(window: int | None, context: bool = False, **options) -> CausalPerceiver:
    """A `CausalPerceiver`, every parameter of which matters: no zeros, no ones."""
    return drawn(
        CausalPerceiver,
        input_dim=INPUT_DIM,
        output_dim=3,
        tokens_per_step=TOKENS,
        outputs_per_step=OUTPUTS,
        context_dim=CONTEXT_DIM if context else None,
        **{**SIZES, "latent_window": window, **options},
    )


@functools.cache
def byte_lm(window: int | None, context: bool = False, **options) -> ByteLM:
    """A `ByteLM` of 3 bytes a step, every parameter of which matters."""
    return drawn(
        ByteLM,
        bytes_per_step=TOKENS,
        use_context=context,
        **{**SIZES, **LOCAL, "latent_window": window, **options},
    )


def drawn(kind, **arguments):
    """A model whose parameters are all noise, drawn by NumPy: biases are not zero,
    scales not one, and nothing compiles."""
    shapes = eqx.filter_eval_shape(lambda key: kind(**arguments, key=key), jr.key(0))

    def draw(path, shape):
        name = jtu.keystr(path[-1:], simple=True)
        noise = normals(zlib.crc32(jtu.keystr(path).encode()), *shape.shape)
        if name == "weight":
            noise = noise / np.sqrt(shape.shape[-2])
        return jnp.asarray(
            noise if name == "weight" else 0.3 * noise + (name == "scale")
        )

    arrays, static = eqx.partition(
        shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct)
    )
    return eqx.combine(jtu.tree_map_with_path(draw, arrays), static)


def perceiver_inputs(seed: int, steps: int = STEPS):
    inputs = jnp.asarray(normals(seed, steps, TOKENS, INPUT_DIM))
    return inputs, jnp.asarray(normals(seed + 1, SOURCE, CONTEXT_DIM))


def byte_inputs(seed: int, steps: int = STEPS):
    tokens_key, source_key = jr.split(jr.key(seed))
    tokens = jr.randint(tokens_key, (steps, TOKENS), 0, 256)
    return tokens, jr.randint(source_key, (SOURCE,), 0, 256)
