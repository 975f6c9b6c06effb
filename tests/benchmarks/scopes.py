"""A profile by named scopes: which part of the model a GPU spent its time on."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path


MATRIX_PRODUCT = re.compile(r"nvjet|gemm|cublas|cutlass", re.IGNORECASE)
ATTENTION = re.compile(r"cudnn|_forward_kernel|_backward_kernel")


def shares_of_scopes(folder: str, hlo: str) -> dict[str, float]:
    """Shares of the device's time, largest first.

    Args:
        folder: where `jax.profiler.trace` wrote; XLA's command buffers must be off
            (`--xla_gpu_enable_command_buffer=`), or kernels cannot be told apart.
        hlo: text of the compiled program, which has the scopes of its operations.
    """
    scopes = dict(
        re.findall(r'%?([\w.\-]+) = [^\n]*?metadata=\{[^}]*?op_name="([^"]*)"', hlo)
    )
    seconds: Counter[str] = Counter()
    for operation, kernel, duration in kernels(folder):
        seconds[_part(kernel, scopes.get(operation, ""))] += duration
    whole = sum(seconds.values())
    return {part: time / whole for part, time in seconds.most_common()}


def _part(kernel: str, scope: str) -> str:
    if ATTENTION.search(kernel):
        return "attention"
    if MATRIX_PRODUCT.search(kernel):
        return "matrix products"
    names = re.findall(r"(?:pqx|train)\.\w+", scope)
    return " / ".join(dict.fromkeys(names)) or "no scope"


def kernels(folder: str):
    """Operation, kernel and microseconds of all that ran on a stream of a GPU."""
    (path,) = Path(folder).rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    processes, threads = {}, {}
    for event in events:
        if event.get("name") == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        elif event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    for event in events:
        if event.get("ph") != "X" or "GPU" not in processes.get(event["pid"], ""):
            continue
        if "Stream" in threads.get((event["pid"], event["tid"]), ""):
            operation = event.get("args", {}).get("hlo_op", "")
            yield operation, event["name"], event["dur"]
