"""Lossless compression by a model's own probabilities.

Each byte is coded in as many bits as the model is surprised by it, and to be decoded,
it must be expected as much without having been seen. So a code is as long as `log_prob`
says only if nothing leaks from a byte into its own probability. Coding and decoding run
the same compiled functions, byte by byte, since the last bit matters.
"""

import hashlib
import json
import platform
import struct
import zlib
from collections.abc import Callable
from typing import Any

import constriction
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import softmax
from jaxtyping import Array, Float, Int

from perceiver_eqx import ByteLM
from perceiver_eqx.adapters.open_step import (
    OpenStep,
    begin_step,
    end_step,
    predict,
    put,
    ready,
)

from .provenance import version_of


# Its types are hidden from type checkers in a module that is not Python.
coding: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]

# What stands before the code: a mark, how many bytes there are, their checksum, the
# beginnings of the hashes of model and build, and a checksum of all that and the code.
HEADER = struct.Struct("<4sQI4s4sI")
MARK = b"pqx2"
# No byte is coded in less: probabilities are of 24 bits, and no byte has none.
FEWEST_BITS = 2e-5

_DAMAGED = (
    "`compressed` was made where floating-point numbers are rounded otherwise: it "
    "decodes to other bytes than its checksum is of."
)


def compress(
    model: ByteLM, data: bytes, *, progress: Callable[[int], None] = lambda done: None
) -> bytes:
    """The data in fewer bytes, if the model expects them.

    Args:
        data: any bytes.
        progress: is told how many bytes were coded, now and then.

    Returns:
        a header of 28 bytes, which names the model and the build, and the code.

    Source:
        Martin, "Range encoding" (1979), by the library constriction.
    """
    coder = coding.queue.RangeEncoder()

    def encode(at: int, expected: Any) -> int:
        coder.encode(data[at], expected)
        return data[at]

    _each_byte(model, len(data), encode, progress)
    made_by = _model_hash(model), _build_hash()
    return _packed(
        (MARK, len(data), zlib.crc32(data), *made_by),
        coder.get_compressed().astype("<u4").tobytes(),
    )


def _packed(fields: tuple, code: bytes) -> bytes:
    """A header of these fields and the code."""
    checksum = zlib.crc32(code, zlib.crc32(HEADER.pack(*fields, 0)))
    return HEADER.pack(*fields, checksum) + code


def decompress(
    model: ByteLM,
    compressed: bytes,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> bytes:
    """The data that `compress` was given.

    Raises:
        ValueError: for what `compress` did not make, or made by another model or build,
            or for a damaged code.
    """
    code = compressed[HEADER.size :]
    if (
        not compressed.startswith(MARK)
        or len(compressed) < HEADER.size
        or len(code) % 4
    ):
        raise ValueError(
            "`compressed` must be all that `compress` returned, got "
            f"{len(compressed)} bytes that begin with {compressed[:4]!r}."
        )
    *fields, _ = HEADER.unpack_from(compressed)
    _, num_bytes, checksum, model_hash, build_hash = fields
    if model_hash != (own := _model_hash(model)):
        raise ValueError(
            "`compressed` must have been made by this model, whose hash is "
            f"{own.hex()}, got one made by {model_hash.hex()}. Pass that model."
        )
    if build_hash != _build_hash():
        here = ", ".join(f"{name} {version}" for name, version in _build().items())
        raise ValueError(
            "`compressed` must have been made by this build, since the last bit of "
            f"every probability matters, got one made by another. Here are {here}. Use "
            "what it was made by."
        )
    most = (8 * len(code) + 64) / FEWEST_BITS
    if _packed(tuple(fields), code) != compressed or num_bytes > most:
        raise ValueError(
            "`compressed` is damaged: its own checksum, or the number of bytes that it "
            "tells, is wrong. Compress the data again."
        )
    coder = coding.queue.RangeDecoder(np.frombuffer(code, "<u4").astype(np.uint32))
    data = bytearray()

    def decode(at: int, expected: Any) -> int:
        try:
            data.append(coder.decode(expected))
        except AssertionError as error:
            raise ValueError(_DAMAGED) from error
        return data[-1]

    _each_byte(model, num_bytes, decode, progress)
    if zlib.crc32(data) != checksum:
        raise ValueError(_DAMAGED)
    return bytes(data)


def _model_hash(model: ByteLM) -> bytes:
    """Of all that a model computes with."""
    found = hashlib.sha256(json.dumps(model.hyperparameters, sort_keys=True).encode())
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)):
        found.update(np.asarray(leaf).tobytes())
    return found.digest()[:4]


def _build_hash() -> bytes:
    return hashlib.sha256(json.dumps(_build()).encode()).digest()[:4]


def _build() -> dict[str, str]:
    """What decides how numbers are rounded."""
    packages = ("perceiver-eqx", "jax", "jaxlib", "equinox", "constriction")
    return {
        **{name: version_of(name) for name in packages},
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
    }


def _each_byte(
    model: ByteLM,
    num_bytes: int,
    code: Callable[[int, Any], int],
    progress: Callable[[int], None],
) -> None:
    """Has every byte coded by its probabilities, given those before it."""
    if num_bytes == 0:
        return
    per_step = model.bytes_per_step
    steps = -(-num_bytes // per_step)
    state, model = model.init_state(max_steps=steps), ready(model)
    for start in range(0, num_bytes, per_step):
        after, step = _begin_step(model, state)
        for position in range(min(per_step, num_bytes - start)):
            place = jnp.asarray(position, jnp.int32)
            step, expected = _expect(model, step, place)
            categorical = coding.model.Categorical(np.asarray(expected), perfect=False)
            byte = code(start + position, categorical)
            step = _put(model, step, place, jnp.asarray(byte, jnp.int32))
        state = end_step(after, step)
        if start // per_step % 128 == 127:
            progress(start + per_step)
    progress(num_bytes)


@eqx.filter_jit
def _expect(
    model: ByteLM, step: OpenStep, position: Int[Array, ""]
) -> tuple[OpenStep, Float[Array, " 256"]]:
    """The probability of each byte at a position."""
    step, logits = predict(model, step, position)
    return step, softmax(logits)


_begin_step = eqx.filter_jit(begin_step)
_put = eqx.filter_jit(put)
