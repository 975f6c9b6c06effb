"""Small models for tests, built once each."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from perceiver_eqx import ByteLM, CausalPerceiver
from tests.helpers import normals


STEPS, TOKENS, OUTPUTS, INPUT_DIM, CONTEXT_DIM = 9, 3, 2, 5, 4
SOURCE = 6


@functools.cache
def perceiver(window: int | None, context: bool = False, **options) -> CausalPerceiver:
    """A `CausalPerceiver`, every parameter of which matters: no zeros, no ones."""
    options = {"num_layers": 2, "num_latents": 2, **options}
    model = eqx.filter_jit(
        lambda key: CausalPerceiver(
            INPUT_DIM,
            3,
            tokens_per_step=TOKENS,
            outputs_per_step=OUTPUTS,
            latent_dim=8,
            num_heads=2,
            latent_window=window,
            context_dim=CONTEXT_DIM if context else None,
            key=key,
            **options,
        )
    )(jr.key(0))
    return shaken(model)


@functools.cache
def byte_lm(window: int | None, context: bool = False, **options) -> ByteLM:
    """A `ByteLM` of 3 bytes a step, every parameter of which matters."""
    options = {"num_layers": 2, "num_latents": 2, **options}
    model = eqx.filter_jit(
        lambda key: ByteLM(
            bytes_per_step=TOKENS,
            latent_dim=8,
            num_heads=2,
            latent_window=window,
            token_dim=6,
            use_context=context,
            key=key,
            **options,
        )
    )(jr.key(1))
    return shaken(model)


def shaken(model):
    """The model with noise added to every parameter: biases leave zero, scales leave
    one, and outputs come to depend visibly on all they may depend on."""
    leaves, tree = jax.tree.flatten(eqx.filter(model, eqx.is_array))
    noisy = [
        leaf + 0.3 * jnp.asarray(normals(i, *leaf.shape))
        for i, leaf in enumerate(leaves)
    ]
    static = eqx.filter(model, eqx.is_array, inverse=True)
    return eqx.combine(jax.tree.unflatten(tree, noisy), static)


def perceiver_inputs(seed: int, steps: int = STEPS):
    inputs = jnp.asarray(normals(seed, steps, TOKENS, INPUT_DIM))
    return inputs, jnp.asarray(normals(seed + 1, SOURCE, CONTEXT_DIM))


def byte_inputs(seed: int, steps: int = STEPS):
    tokens_key, source_key = jr.split(jr.key(seed))
    tokens = jr.randint(tokens_key, (steps, TOKENS), 0, 256)
    return tokens, jr.randint(source_key, (SOURCE,), 0, 256)
