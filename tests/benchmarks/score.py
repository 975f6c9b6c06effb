"""The bits of a file by `log_prob`, in one pass, or by the loss that training has, from
an array of all its bytes; alone in its process, whose peak memory is told. Prints JSON.
"""

import argparse
import json
import math
import resource
import time
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from perceiver_eqx import ByteLM, log_prob
from train.loss import batch_bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--in-memory", action="store_true", help="by the loss")
    args = parser.parse_args()
    model = ByteLM(
        bytes_per_step=64,
        num_latents=2,
        latent_dim=64,
        num_layers=2,
        num_heads=2,
        latent_window=64,
        token_dim=16,
        local_dim=16,
        key=jr.key(0),
    )
    start = time.perf_counter()
    if args.in_memory:
        bits = bits_in_memory(model, np.fromfile(args.file, np.uint8))
    else:
        bits = -log_prob(model, args.file) / math.log(2)
    found = {
        "bits": bits,
        "seconds": time.perf_counter() - start,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(found))


def bits_in_memory(model: ByteLM, data: np.ndarray) -> float:
    per_step = model.bytes_per_step
    whole = jnp.asarray(np.pad(data, (0, -data.size % per_step)))[None]
    batch = {"bytes": whole, "length": jnp.array([data.size], jnp.int32)}
    bits, _ = eqx.filter_jit(batch_bits)(model, batch, None, chunk_steps=512)
    return float(bits)


if __name__ == "__main__":
    main()
