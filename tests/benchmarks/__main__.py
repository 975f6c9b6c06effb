"""`nox -s bench`: memory by the compiler's analysis, and ratios of time in one run."""

import argparse
import json
from pathlib import Path

import jax

from .memory import prefix_attend_bytes, train_step_bytes
from .speed import attend_seconds


MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    file = parser.parse_args().json
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}\n")
    results = {
        "jax": jax.__version__,
        "device": device,
        "prefix_attend_bytes": memory_of_prefix_attend(),
        "train_step_bytes": memory_of_train_step(),
        "attend_seconds": time_of_attend(),
    }
    if file is not None:
        file.write_text(json.dumps(results, indent=2) + "\n")


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
    print("\ntraining step of a small ByteLM, one sequence, chunks of 2,048 bytes")
    print(f"{'bytes':>10}  {'window of 8 steps':>18}  {'no window':>12}")
    found: dict[str, dict[int, int]] = {"window": {}, "none": {}}
    for exponent in (16, 18, 20):
        size = 2**exponent
        found["window"][size] = finite = train_step_bytes(size)
        found["none"][size] = whole = train_step_bytes(size, latent_window=None)
        print(f"{size:>10,}  {finite / MIB:>14,.1f} MiB  {whole / MIB:>8,.1f} MiB")
    return found


def time_of_attend() -> list[dict]:
    print("\nattend, forward + backward, 4 heads x 64: time against the dense engine")
    print(f"{'rows':>6}  {'window':>7}  {'dense':>8}  {'blockwise':>9}  {'ratio':>6}")
    found = []
    for steps, window in ((128, None), (512, None), (512, 64)):
        dense, tiles = (
            attend_seconds(engine, steps, 8, window)
            for engine in ("dense", "blockwise")
        )
        row = {"rows": 8 * steps, "window": window, "dense": dense, "blockwise": tiles}
        found.append(row)
        print(
            f"{8 * steps:>6,}  {window or 'all':>7}  {dense:>6.3f} s  {tiles:>7.3f} s"
            f"  {tiles / dense:>6.2f}"
        )
    return found


if __name__ == "__main__":
    main()
