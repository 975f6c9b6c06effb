"""Memory by the compiler's own analysis: nothing is run, so any size can be asked."""

import json
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from perceiver_eqx import ByteLM, prefix_attend
from perceiver_eqx.mesh import make_mesh
from train.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from train.loss import batch_bits
from train.plan_mesh import compile_over
from train.sharding import Layout
from train.step import init_train_state, train_step


def temporary_bytes(function, *arguments) -> int:
    """Temporaries of a compiled function, its arguments and results not counted."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def prefix_attend_bytes(
    num_tokens: int, *, latents: int = 8, width: int = 64, tokens_per_step: int = 64
) -> int:
    """Temporaries of `prefix_attend`, forward and backward, in float32."""
    shape = jax.ShapeDtypeStruct
    query = shape((latents, 1, width), jnp.float32)
    tokens = shape(
        (num_tokens // tokens_per_step, tokens_per_step, 1, width), jnp.float32
    )

    def loss(query, key, value):
        return jnp.sum(prefix_attend(query, key, value)[0] ** 2)

    return temporary_bytes(jax.value_and_grad(loss, (0, 1, 2)), query, tokens, tokens)


def train_step_bytes(
    num_bytes: int,
    *,
    latent_window: int | None = 8,
    chunk_steps: int = 256,
    context_bytes: int = 0,
) -> int:
    """Temporaries of an optimizer step of a small `ByteLM` on one sequence, and on a
    context that is asked by tokens of a step's size."""
    optim = optax.adamw(1e-3)
    model = eqx.filter_eval_shape(
        lambda key: ByteLM(
            bytes_per_step=8,
            num_latents=2,
            latent_dim=32,
            num_layers=2,
            num_heads=2,
            latent_window=latent_window,
            local_window=64,  # bytes, as far as a window of 8 steps
            readout="queries",  # as when these figures were first taken
            use_context=context_bytes > 0,
            context_patch=8,
            key=key,
        ),
        jr.key(0),
    )
    state = eqx.filter_eval_shape(lambda model: init_train_state(model, optim), model)
    arrays, static = eqx.partition(
        state, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )
    batch = {
        "bytes": jax.ShapeDtypeStruct((1, num_bytes), jnp.uint8),
        "length": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    if context_bytes:
        context = jax.ShapeDtypeStruct((1, context_bytes), jnp.uint8)
        batch |= {"context": context, "context_length": batch["length"]}
    loss_fn = partial(batch_bits, chunk_steps=chunk_steps)

    def step(arrays, batch, key):
        state, _ = train_step(
            eqx.combine(arrays, static), batch, key, loss_fn=loss_fn, optim=optim
        )
        return eqx.filter(state, eqx.is_array)

    return temporary_bytes(step, arrays, batch, jr.key(0))


def bytes_over_devices(
    num_bytes: int, axis: str, devices: int, latent_window: int | None
) -> tuple[int, int]:
    """Bytes that each device of a mesh takes: arguments of an optimizer step, which are
    parameters, what the optimizer keeps, and the batch; and temporaries. Of one
    sequence, of which each device has four runs of steps.

    Args:
        axis: `time`, with a small model, or `model`, with one of 20 M parameters.
    """
    wide = axis == "model"
    model = ModelConfig(
        bytes_per_step=16,
        num_latents=1,
        latent_dim=512 if wide else 32,
        num_layers=4 if wide else 2,
        num_heads=2,
        latent_window=latent_window,
        local_window=64,
        ngrams=(),
    )
    config = TrainConfig(
        model=model,
        data=DataConfig(window_bytes=num_bytes, validation_bytes=None),
        batch_size=devices if wide else 1,
        chunk_steps=max(num_bytes // 16 // devices // 4, 1),
        optim=OptimConfig(name="adamw"),
    )
    mesh = make_mesh({axis: devices}, jax.devices()[:devices])
    found: Any = compile_over(config, Layout.of(mesh, config)).memory_analysis()
    return found.argument_size_in_bytes, found.temp_size_in_bytes


def main() -> None:
    """Prints what each of 1, 2, 4 and 8 devices takes, which a processor plays."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    rows = [
        ("time", 2**power, window) for window in (64, None) for power in (20, 22, 24)
    ]
    for axis, size, window in [*rows, ("model", 2**16, 64)]:
        for devices in (1, 2, 4, 8):
            found = bytes_over_devices(size, axis, devices, window)
            names = ("argument_mib", "temporary_mib")
            mib = {n: round(x / 2**20, 1) for n, x in zip(names, found, strict=True)}
            told = {"axis": axis, "bytes": size, "window": window, "devices": devices}
            print(json.dumps(told | mib), flush=True)


if __name__ == "__main__":
    main()
