"""Bits per byte of held-out content."""

from collections.abc import Callable, Iterable

from jaxtyping import Array

from perceiver_eqx import ByteLM

from .data.windows import Batch


def evaluate(
    model: ByteLM,
    batches: Iterable[Batch],
    batch_bits: Callable[[ByteLM, Batch], tuple[Array, Array]],
) -> float:
    """Bits per byte over all bytes of some batches.

    Args:
        batches: as `train.data.windows.validation_batches` gives them.
        batch_bits: the bits and bytes of a batch, summed; jitted by the caller.

    Raises:
        ValueError: there is no byte in the batches.
    """
    total, count = 0.0, 0
    for batch in batches:
        bits, num_bytes = batch_bits(model, batch)
        total, count = total + float(bits), count + int(num_bytes)
    if count == 0:
        raise ValueError("`batches` must hold at least one byte to evaluate, got none.")
    return total / count
