"""Loss by position: does a byte cost less where more was read before it?

Texts differ from place to place, so the same bytes are scored again with less before
them: by a stream that begins anew at every so many bytes.
"""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, UInt8

from perceiver_eqx import ByteLM

from .data import Text
from .evaluate import bits_of_text, bits_restarted, stride_of
from .models import Combined, byte_bits
from .programs import Programs


# Bytes after which a control forgets, in turn.
RESTARTS = 1_000, 10_000, 100_000


def bits_by_position(programs: Programs, carried, text: Text, before: Text) -> dict:
    """Mean bits per byte in logarithmic bins of position.

    A streaming model reads the text as one stream from its beginning on. Any other has
    7/8 of its context or more before each byte, of the text before too.

    Returns:
        `bins`, each from a position to another, and per way to read (`whole`, and
        `restarted_N` where the same bytes are read with a new beginning every N) the
        bits per byte of each bin.
    """
    model = programs.model_of(carried)
    if isinstance(model, Combined) and model.byte_lm.latent_window is not None:
        ways = stream_bits(model.byte_lm, text)
    else:
        bits = bits_of_text(programs, carried, text, before, stride_of(programs))
        ways = {"whole": bits}
        if programs.targets == programs.context:
            for every in (*RESTARTS, programs.context):
                if every <= programs.context:
                    bits = bits_restarted(programs, carried, text, every)
                    ways[f"restarted_{every}"] = bits
    return in_bins(ways)


def in_bins(ways: dict[str, Float[np.ndarray, " bytes"]]) -> dict:
    """Means of bits, of tenfold more bytes from bin to bin."""
    count = min(bits.size for bits in ways.values())
    edges = [0, *(edge for edge in (10**k for k in range(3, 10)) if edge < count)]
    bins = list(pairwise([*edges, count]))
    means = {
        name: [float(bits[a:b].mean(dtype=np.float64)) for a, b in bins]
        for name, bits in ways.items()
    }
    return {"bins": bins, **means}


def stream_bits(model: ByteLM, text: Text) -> dict[str, Float[np.ndarray, " bytes"]]:
    """Bits of each byte of a stream, and of streams that begin anew now and then.

    All go side by side through the text, in chunks of about 1,000 bytes; what is after
    the last whole chunk is left out.
    """
    per_step = model.bytes_per_step
    chunk = max(1, RESTARTS[0] // per_step) * per_step
    count = text.size // chunk
    chunks = text[: count * chunk].reshape(count, -1, per_step)
    every = [count] + [restart // RESTARTS[0] for restart in RESTARTS]
    names = ["whole"] + [f"restarted_{n * chunk}" for n in every[1:]]
    anew = np.arange(count)[:, None] % np.array(every) == 0
    bits = np.asarray(_streams(model, chunks, anew))
    return {name: bits[:, way].ravel() for way, name in enumerate(names)}


@eqx.filter_jit
def _streams(
    model: ByteLM,
    chunks: UInt8[np.ndarray, "chunks steps bytes_per_step"],
    anew: Bool[np.ndarray, "chunks ways"],
) -> Float[Array, "chunks ways chunk_bytes"]:
    begin = model.init_state()

    def advance(states, of_chunk):
        tokens, anew = of_chunk

        def one(state, anew):
            state = jax.tree.map(lambda x, y: jnp.where(anew, x, y), begin, state)
            state, logits = model.advance(state, tokens)
            return state, byte_bits(logits.reshape(tokens.size, -1), tokens.ravel())

        return jax.vmap(one)(states, anew)

    ways = anew.shape[1]
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (ways, *x.shape)), begin)
    return lax.scan(advance, states, (chunks, anew))[1]
