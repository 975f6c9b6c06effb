"""A training step on one long sequence, alone in its process, since the peak of the
device's memory is that of the whole process. Prints JSON."""

import argparse
import json
import tempfile
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from perceiver_eqx import ByteLM
from train.flops import num_parameters, train_step_flops
from train.loss import batch_bits
from train.step import init_train_state, train_step

from .scopes import shares_of_scopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--window", type=int, help="steps; all without it")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--chunk-steps", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="shares by scope")
    print(json.dumps(measure(parser.parse_args())))


def measure(args: argparse.Namespace) -> dict:
    model = ByteLM(
        bytes_per_step=64,
        num_latents=8,
        latent_dim=512,
        num_layers=12,
        num_heads=args.heads,
        latent_window=args.window,
        dtype="bfloat16",
        key=jr.key(0),
    )
    found = {
        "bytes": args.bytes,
        "window": args.window,
        "heads": args.heads,
        "chunk_steps": args.chunk_steps,
        "parameters": num_parameters(model),
        "flops": train_step_flops(model, args.bytes),
    }
    optim = optax.adamw(1e-3)
    state = init_train_state(model, optim)
    batch = {
        "bytes": jr.randint(jr.key(1), (1, args.bytes), 0, 256).astype(jnp.uint8),
        "length": jnp.array([args.bytes], jnp.int32),
    }
    loss_fn = partial(batch_bits, chunk_steps=args.chunk_steps)
    arrays, static = eqx.partition(state, eqx.is_array)

    @partial(jax.jit, donate_argnums=0)
    def step(arrays, batch, key):
        state, metrics = train_step(
            eqx.combine(arrays, static), batch, key, loss_fn=loss_fn, optim=optim
        )
        return eqx.filter(state, eqx.is_array), metrics

    compiled = step.lower(arrays, batch, jr.key(2)).compile()
    seconds = []
    for repeat in range(
        1 + args.repeats
    ):  # the first one warms up, and counts if alone
        start = time.perf_counter()
        arrays, metrics = jax.block_until_ready(compiled(arrays, batch, jr.key(repeat)))
        seconds.append(time.perf_counter() - start)
    found["seconds"] = seconds[1:] or seconds
    found["bits_per_byte"] = float(metrics["bits_per_byte"])
    stats = jax.devices()[0].memory_stats() or {}
    found["peak_bytes"] = stats.get("peak_bytes_in_use")
    if args.profile:
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                jax.block_until_ready(compiled(arrays, batch, jr.key(9)))
            found["scopes"] = shares_of_scopes(folder, compiled.as_text())
    return found


if __name__ == "__main__":
    main()
