"""`nox -s bench`: memory by the compiler's analysis, and ratios of time in one run.

`--device gpu` times the kernels and whole training steps on an NVIDIA GPU instead.
Generation is compared with other libraries if PEERS_PYTHON names a Python that has
them, which tests/benchmarks/peers.py lists.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import chain, product
from pathlib import Path

import jax

from . import speed, streaming
from .memory import prefix_attend_bytes, train_step_bytes


MIB, GIB = 2**20, 2**30
HEADS = (8, 64), (4, 128)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    names = sorted({part.__name__ for part in (*ON_CPU, *ON_GPU)})
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    # Of a GPU's memory, none that processes of their own may need.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.device != jax.default_backend():
        parser.error(
            f"`--device` must be what JAX runs on, got {args.device}; JAX found "
            f"{jax.default_backend()}. Install jax[cuda13] for a GPU, or set "
            "JAX_PLATFORMS=cpu."
        )
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}\n", flush=True)
    parts = ON_CPU if args.device == "cpu" else ON_GPU
    results = {"jax": jax.__version__, "device": device}
    for part in parts:
        if part.__name__ in args.only:
            results[part.__name__] = part()
            print(flush=True)
            if args.json is not None:
                args.json.write_text(json.dumps(results, indent=2) + "\n")


def memory_of_prefix_attend() -> dict[int, int]:
    print("prefix_attend, forward + backward, 8 latents, width 64, float32")
    print(f"{'tokens':>10}  {'temporaries':>12}  {'a token':>8}")
    found = {}
    for exponent in range(17, 21):
        tokens = 2**exponent
        found[tokens] = size = prefix_attend_bytes(tokens)
        print(f"{tokens:>10,}  {size / MIB:>8,.1f} MiB  {size / tokens:>6,.0f} B")
    return found


def memory_of_train_step() -> dict[str, dict[int, int]]:
    print("training step of a small ByteLM, one sequence, chunks of 2,048 bytes")
    print(f"{'bytes':>10}  {'window of 8 steps':>18}  {'no window':>12}")
    found: dict[str, dict[int, int]] = {"window": {}, "none": {}}
    for exponent in (16, 18, 20):
        size = 2**exponent
        found["window"][size] = finite = train_step_bytes(size)
        found["none"][size] = whole = train_step_bytes(size, latent_window=None)
        print(f"{size:>10,}  {finite / MIB:>14,.1f} MiB  {whole / MIB:>8,.1f} MiB")
    return found


def time_of_engines() -> list[dict]:
    print("attend, forward + backward, 4 heads x 64, float32: blockwise against dense")
    print(f"{'rows':>6}  {'window':>7}  {'dense':>20}  {'blockwise':>20}  time  memory")
    found = []
    for rows, window in ((1024, None), (4096, None), (4096, 64), (16384, None)):
        costs = speed.dense_and_blockwise(rows, 8, window)
        found.append({"rows": rows, "window": window, **costs})
        seconds, sizes = costs["seconds"], costs["temporary_bytes"]
        columns = "  ".join(
            f"{time:>7.3f} s {size / MIB:>6,.0f} MiB"
            for time, size in zip(seconds, sizes, strict=True)
        )
        print(
            f"{rows:>6,}  {window or 'all':>7}  {columns}  "
            f"{seconds[1] / seconds[0]:.2f}  {sizes[1] / sizes[0]:>6.3f}",
            flush=True,
        )
    return found


def ceilings() -> dict:
    found = {"matmul_flops": speed.matmul_flops(), "copy": speed.copy_bandwidth()}
    tera = {name: rate / 1e12 for name, rate in found.items()}
    print(
        f"ceilings: bfloat16 product of 8192 x 8192 matrices "
        f"{tera['matmul_flops']:.0f} TFLOP/s, copy {tera['copy']:.2f} TB/s"
    )
    return found


def time_of_engines_on_gpu() -> list[dict]:
    print(
        "attend, forward + backward, 8 latents, 8 heads x 64, bfloat16: time over that"
    )
    print("of cuDNN's causal attention")
    print("  rows   causal      dense  blockwise     cudnn")
    found = []
    for rows in (4096, 8192):
        seconds = speed.time_of_engines(rows, 8)
        found.append({"rows": rows, **seconds})
        ratios = "  ".join(
            f"{seconds[engine] / seconds['causal']:>8.2f}"
            for engine in ("dense", "blockwise", "cudnn")
        )
        print(f"{rows:>6,}  {seconds['causal'] * 1e3:>4.2f} ms  {ratios}", flush=True)
    return found


def attention_against_cudnn() -> list[dict]:
    ceiling = speed.matmul_flops()
    print(
        "attend, forward + backward, bfloat16: speed against cuDNN's causal attention"
    )
    print("by latents a step, time with a window of 512 steps over that of its sliding")
    print(f"one, and useful operations as a share of {ceiling / 1e12:.0f} TFLOP/s")
    print("   rows   heads    causal       1      2      8     64   window   share")
    found = []
    for (heads, head_dim), rows in product(HEADS, (65_536, 131_072)):
        seconds = speed.time_against_cudnn(rows, heads, head_dim)
        found.append({"rows": rows, "heads": heads, "head_dim": head_dim, **seconds})
        ratios = "  ".join(
            f"{seconds['causal'] / seconds[f'latents {latents}']:.3f}"
            for latents in (1, 2, 8, 64)
        )
        window = seconds["window 512"] / seconds["sliding"]
        share = 6 * rows**2 * heads * head_dim / seconds["latents 8"] / ceiling
        print(
            f"{rows:>7,}  {heads}x{head_dim:<4} {seconds['causal'] * 1e3:>6.1f} ms"
            f"   {ratios}    {window:.3f}   {share:.3f}",
            flush=True,
        )
    return found


def cross_attention_against_cudnn() -> list[dict]:
    print(
        "causal cross-attention, 8,192 steps of 8 queries, forward + backward: rate of"
    )
    print("useful operations against cuDNN's causal attention")
    print("keys   heads")
    found = []
    for (heads, head_dim), keys in product(HEADS, (64, 20, 65)):
        seconds = speed.time_of_cross_attention(8192, 8, keys, heads, head_dim)
        rate = seconds["causal"] * keys / 8 / seconds["cross"]
        of_what = {"keys": keys, "heads": heads, "head_dim": head_dim}
        found.append({**of_what, **seconds, "rate": rate})
        print(
            f"{keys:>4}  {heads}x{head_dim:<4}  {seconds['cross'] * 1e3:>7.1f} ms  "
            f"{rate:.3f}",
            flush=True,
        )
    return found


def prefix_attend_against_copy() -> list[dict]:
    copy = speed.copy_bandwidth()
    print("prefix_attend, 1,048,576 tokens, 8 latents, width 512, bfloat16: time over")
    print(f"that of moving its bytes once at {copy / 1e12:.2f} TB/s")
    print("tokens a step   heads     forward            forward + backward")
    found = []
    for (heads, head_dim), per_step in product(HEADS, (64, 8, 1)):
        of_one = speed.time_of_prefix_attend(2**20, per_step, heads, head_dim)
        of_what = {"per_step": per_step, "heads": heads, "head_dim": head_dim}
        found.append({**of_what, "copy": copy, **of_one})
        ratios = [of_one[f"{what}_bytes"] / copy for what in ("forward", "both")]
        print(
            f"{per_step:>13}  {heads}x{head_dim:<4} "
            f"{of_one['forward'] * 1e3:>7.2f} ms {of_one['forward'] / ratios[0]:>6.2f}"
            f"  {of_one['both'] * 1e3:>9.2f} ms {of_one['both'] / ratios[1]:>6.2f}",
            flush=True,
        )
    return found


def training_steps() -> list[dict]:
    ceiling = speed.matmul_flops()
    print(
        "training step of a ByteLM in bfloat16, width 512, 12 layers, 8 latents and 64"
    )
    print(f"bytes a step, one sequence; share of {ceiling / 1e12:.0f} TFLOP/s")
    print("     bytes  window  heads  parameters    seconds  peak memory   share")
    found = []
    for options in (
        ["--bytes=1048576"],
        ["--bytes=1048576", "--heads=4"],
        ["--bytes=1048576", "--heads=4", "--profile"],
        ["--bytes=1048576", "--window=512", "--chunk-steps=2048"],
        ["--bytes=33554432", "--window=512", "--chunk-steps=2048", "--repeats=0"],
    ):
        # A profile tells kernels apart only outside of command buffers.
        buffers = "--profile" in options and "--xla_gpu_enable_command_buffer="
        run = _in_a_process("train_step", options, buffers or "")
        found.append(run)
        seconds = statistics.median(run["seconds"])
        print(
            f"{run['bytes']:>10,}  {run['window'] or 'all':>6}  {run['heads']:>5}  "
            f"{run['parameters']:>10,}  {seconds:>7.2f} s  "
            f"{run['peak_bytes'] / GIB:>7.2f} GiB  "
            f"{run['flops'] / seconds / ceiling:>6.3f}",
            flush=True,
        )
        for scope, share in list(run.get("scopes", {}).items())[:10]:
            print(f"    {100 * share:>5.1f} %  {scope}", flush=True)
    return found


def _in_a_process(module: str, options: list[str], xla_flags: str = "") -> dict:
    """What a benchmark prints that has a process, and its memory, for itself."""
    run = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *options],
        env={**os.environ, "XLA_FLAGS": xla_flags} if xla_flags else None,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def long_stream() -> list[dict]:
    model = streaming.byte_lm(8, 2)
    print("a stream of 16,777,216 real bytes, 8 bytes a step, finite window")
    print("million       time  state bytes  bits per byte")
    found = []
    data = streaming.real_bytes(16 * streaming.MILLION)
    for million, one in enumerate(streaming.stream(model, data), 1):
        found.append(one)
        print(
            f"{million:>7}  {one['seconds']:>7.3f} s  {one['state_bytes']:>11,}  "
            f"{one['bits_per_byte']:>13.4f}",
            flush=True,
        )
    print(f"last over first: {found[-1]['seconds'] / found[0]['seconds']:.3f}")
    return found


def scoring() -> dict[str, dict]:
    print("bits of a file of 100,000,000 bytes, each in a process of its own")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        streaming.real_bytes(100_000_000).tofile(path)
        found = {
            "log_prob": _in_a_process("score", [str(path)]),
            "the loss, in memory": _in_a_process("score", [str(path), "--in-memory"]),
        }
    for name, one in found.items():
        print(
            f"{name:<20}  {one['bits']:>17,.1f} bits  {one['seconds']:>6.1f} s  peak "
            f"{one['peak_bytes'] / MIB:,.0f} MiB"
        )
    return found


def generation() -> list[dict]:
    peers_python = os.environ.get("PEERS_PYTHON")
    print("bytes a second after a context, by rows that generate together")
    print("system                rows  context  parameters  bytes a second   prompt")
    sizes = (1024, 8192, 65536), (1, 64)
    found = []
    for one in chain(
        streaming.our_generation(*sizes),
        streaming.peers_generation(peers_python, *sizes) if peers_python else (),
    ):
        found.append(one)
        setting = f"{one['system']:<20}  {one['batch']:>4}  {one['context']:>7,}"
        if "error" in one:
            print(f"{setting}  {one['error']}", flush=True)
            continue
        print(
            f"{setting}  {one['parameters']:>10,}  {one['bytes_per_second']:>14,.1f}  "
            f"{one['prompt_seconds']:>6.3f} s",
            flush=True,
        )
    return found


ON_CPU = (
    memory_of_prefix_attend,
    memory_of_train_step,
    time_of_engines,
    long_stream,
    scoring,
    generation,
)
ON_GPU = (
    ceilings,
    time_of_engines_on_gpu,
    attention_against_cudnn,
    cross_attention_against_cudnn,
    prefix_attend_against_copy,
    training_steps,
    long_stream,
    generation,
)


if __name__ == "__main__":
    main()
