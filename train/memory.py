"""The memory of a device: how much there is, and what to do when it is not enough."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import psutil

from .config import TrainConfig
from .metrics import amount


class OutOfMemory(RuntimeError):
    """A device had less memory than a program needs."""


def memory_bytes() -> int:
    """Tells how much memory the run takes.

    Returns:
        The most that any of this process' devices has had in use, in bytes, or the
        process' resident memory where the backend keeps no count (as on CPU).
    """
    counts = [device.memory_stats() for device in jax.local_devices()]
    peaks = [c["peak_bytes_in_use"] for c in counts if c and "peak_bytes_in_use" in c]
    return max(peaks, default=psutil.Process().memory_info().rss)


def device_memory() -> int:
    """Bytes that a program may take on the first device: what JAX may have of a GPU's,
    or what is free where the backend keeps no count (as on CPU)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or psutil.virtual_memory().available


def bytes_of(compiled: Any) -> tuple[int, int]:
    """Bytes of the arguments of a program (`jax.stages.Compiled`), and of all that it
    takes on a device, by the compiler's own analysis."""
    found = compiled.memory_analysis()
    whole = found.argument_size_in_bytes + found.output_size_in_bytes
    whole += found.temp_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes, whole


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error of JAX says, itself or from another before it."""
    said = isinstance(error, jax.errors.JaxRuntimeError) and re.search(
        "RESOURCE_EXHAUSTED|Out of memory", str(error)
    )
    return isinstance(error, MemoryError) or bool(said)


@contextmanager
def advised(config: TrainConfig) -> Iterator[None]:
    """Tells what to change where memory runs out.

    Raises:
        OutOfMemory: it does.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(told(error, config)) from error


def told(error: BaseException, config: TrainConfig) -> str:
    """What was asked of which device, and which settings to change."""
    device, has = jax.devices()[0].device_kind, amount(float(device_memory())).strip()
    asked = (str(error).strip() or "there is no room").splitlines()[0].rstrip(".")
    return (
        f"{device} has {has}, which is not enough: "
        f"{asked}. What was saved is as it was. Lower `chunk_steps` = "
        f"{config.chunk_steps}, raise `micro_batches` = {config.micro_batches} (up to "
        f"`batch_size` = {config.batch_size}), or lower `batch_size` or `window_bytes` "
        f"= {config.data.window_bytes}; `python -m train plan` tells what fits."
    )
