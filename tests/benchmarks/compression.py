"""Files compressed by a model and returned, beside gzip, bz2 and xz.

python -m tests.benchmarks.compression --model runs/laptop/model.safetensors FILE...
"""

import argparse
import bz2
import gzip
import lzma
import math
import time
from pathlib import Path

from perceiver_eqx import log_prob
from perceiver_eqx.pretrained.native import load
from train.compress import compress, decompress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    model = load(args.model)
    print(
        "bytes of each file, by the model's own bits and as compressed, and by others"
    )
    print(f"{'file':<20}    bytes   by bits  compressed     over   gzip    bz2     xz")
    for path in args.files:
        data, start = path.read_bytes(), time.perf_counter()
        packed = compress(model, data)
        if decompress(model, packed) != data:
            raise SystemExit(f"{path} did not come back.")
        seconds = time.perf_counter() - start
        ideal = math.ceil(-log_prob(model, data) / math.log(256))
        over = f"{100 * (len(packed) / ideal - 1):.3f} %" if ideal else ""
        others = [gzip.compress(data, 9), bz2.compress(data), lzma.compress(data)]
        sizes = "  ".join(f"{len(other):>6}" for other in others)
        print(
            f"{path.name:<20}  {len(data):>7}   {ideal:>7}     {len(packed):>7}  "
            f"{over:>7}  {sizes}   came back, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
