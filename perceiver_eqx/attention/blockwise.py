"""The portable engine of linear memory: tiles of keys, merged, on any backend.

Tiles that the mask rules out are skipped, forward and backward. The backward pass
recomputes the weights from the saved log-sum-exp and stores no scores.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from .dense import attention_scores, dense_average, keep_weights, state_dtype
from .masks import Mask
from .softmax import ATTENDED, SoftmaxAverage, empty_average, finite_top, merge


# Rows and columns of a tile: 64 KiB of float32 scores a head stay in a processor's
# cache; a GPU has as much to start for a small tile as for a large one.
TILE = {"cpu": 128, "gpu": 1024}


def blockwise_average(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    mask: Mask,
    dropout: float = 0.0,
    rng: PRNGKeyArray | None = None,
    tile: int | None = None,
) -> SoftmaxAverage:
    """Softmax average of each query over its allowed keys, in O(q_len + kv_len) memory.

    Args:
        tile: rows and columns of a tile; `None` for what suits the device.

    Source:
        Dao et al., "FlashAttention" (2022), algorithms 1 and 4, with the merge
        of averages in place of the running maximum and sum.
    """
    tiles = _tiles_of(query, key, tile, dropout)
    return _average((query, key, value), mask, rng, tiles)


def blockwise_gradients(
    query: Float[Array, "q_len heads head_dim"],
    key: Float[Array, "kv_len heads head_dim"],
    value: Float[Array, "kv_len heads v_dim"],
    mask: Mask,
    average: SoftmaxAverage,
    d_value: Float[Array, "q_len heads v_dim"],
) -> tuple[
    Float[Array, "q_len heads head_dim"],
    Float[Array, "kv_len heads head_dim"],
    Float[Array, "kv_len heads v_dim"],
]:
    """Gradients of the keys and values of one part of an average, and what that part
    adds to those of the queries, in the dtype of the average.

    Args:
        average: over these keys and others, merged.
        d_value: the cotangent of its value.
    """
    cotangent = SoftmaxAverage(
        jnp.zeros_like(average.top), d_value.astype(average.value.dtype)
    )
    tiles = _tiles_of(query, key, None, 0.0)
    return _gradients(average, cotangent, (query, key, value), mask, None, tiles)


def _tiles_of(query: Array, key: Array, tile: int | None, dropout: float) -> "_Tiles":
    if tile is None:
        tile = TILE.get(jax.default_backend(), TILE["cpu"])
    q_tile, k_tile = min(tile, query.shape[0]), min(tile, key.shape[0])
    return _Tiles(query.shape[0], key.shape[0], q_tile, k_tile, dropout)


class _Tiles(eqx.Module):
    """Sizes, and the cutting of arrays into (padded) tiles."""

    q_len: int = eqx.field(static=True)
    kv_len: int = eqx.field(static=True)
    q_tile: int = eqx.field(static=True)
    k_tile: int = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    @property
    def q_count(self) -> int:
        return -(-self.q_len // self.q_tile)

    @property
    def k_count(self) -> int:
        return -(-self.kv_len // self.k_tile)

    def of_queries(self, x: Array) -> Array:
        return _cut(x, self.q_count, self.q_tile)

    def of_keys(self, x: Array) -> Array:
        return _cut(x, self.k_count, self.k_tile)

    def key_tiles(self, mask: Mask, q_index) -> tuple:
        """Half-open range of key tiles that this tile of queries can see."""
        first_row = q_index * self.q_tile
        last_row = jnp.minimum(first_row + self.q_tile, self.q_len) - 1
        first, stop = mask.columns_of(first_row, last_row)
        return first // self.k_tile, _ceil_div(stop, self.k_tile)

    def query_tiles(self, mask: Mask, k_index) -> tuple:
        """Half-open range of query tiles that can see this tile of keys."""
        first_column = k_index * self.k_tile
        last_column = jnp.minimum(first_column + self.k_tile, self.kv_len) - 1
        first, stop = mask.rows_of(first_column, last_column)
        return first // self.q_tile, _ceil_div(stop, self.q_tile)

    def allowed(self, mask: Mask, q_index, k_index):
        rows = q_index * self.q_tile + jnp.arange(self.q_tile)
        columns = k_index * self.k_tile + jnp.arange(self.k_tile)
        inside = (rows < self.q_len)[:, None] & (columns < self.kv_len)
        return mask.allows(rows, columns) & inside

    def rng(self, rng: PRNGKeyArray | None, q_index, k_index) -> PRNGKeyArray | None:
        if rng is None:
            return None
        return jr.fold_in(jr.fold_in(rng, q_index), k_index)


def _cut(x: Array, count: int, tile: int) -> Array:
    padding = [(0, count * tile - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(count, tile, *x.shape[1:])


def _joined(x: Array, length: int) -> Array:
    return x.reshape(-1, *x.shape[2:])[:length]


def _ceil_div(x, y: int):
    return (x + y - 1) // y


@eqx.filter_custom_vjp
def _average(arrays, mask: Mask, rng, tiles: _Tiles) -> SoftmaxAverage:
    query, key, value = arrays
    dtype = state_dtype(query, key, value)
    keys, values = tiles.of_keys(key), tiles.of_keys(value)

    def row_of_tiles(indexed):
        q_index, q_rows = indexed

        def add_tile(k_index, average):
            tile = dense_average(
                q_rows,
                keys[k_index],
                values[k_index],
                tiles.allowed(mask, q_index, k_index),
                tiles.dropout,
                tiles.rng(rng, q_index, k_index),
            )
            return merge(average, tile)

        start = empty_average((tiles.q_tile, query.shape[1]), value.shape[-1], dtype)
        first, stop = tiles.key_tiles(mask, q_index)
        return lax.fori_loop(first, stop, add_tile, start)

    indexed = jnp.arange(tiles.q_count), tiles.of_queries(query)
    averages = lax.map(row_of_tiles, indexed)
    return jax.tree.map(lambda x: _joined(x, tiles.q_len), averages)


@_average.def_fwd
def _average_forward(perturbed, arrays, mask, rng, tiles):
    del perturbed
    average = checkpoint_name(_average(arrays, mask, rng, tiles), ATTENDED)
    return average, average


@_average.def_bwd
def _average_backward(average, cotangent, perturbed, arrays, mask, rng, tiles):
    del perturbed
    found = _gradients(average, cotangent, arrays, mask, rng, tiles)
    return tuple(x.astype(array.dtype) for x, array in zip(found, arrays, strict=True))


def _gradients(average, cotangent, arrays, mask, rng, tiles):
    """With `p = exp(score - lse)`: `d_score = p * (d_out·v - d_out·out + d_lse)`."""
    query, key, value = arrays
    dtype = average.value.dtype
    d_value = _or_zeros(cotangent.value, average.value)
    # All that depends on the log-sum-exp depends on `rest`.
    d_lse = _or_zeros(cotangent.rest, average.rest)
    shift = d_lse - jnp.einsum("qhd,qhd->qh", d_value, average.value)
    top, rest = finite_top(average.top), average.rest
    by_row = tuple(map(tiles.of_queries, (query, d_value, top, rest, shift)))
    scale = query.shape[-1] ** -0.5

    def column_of_tiles(d_query, indexed):
        k_index, k_rows, v_rows = indexed

        def add_tile(q_index, sums):
            d_query, d_key, d_value_ = sums
            q_rows, d_rows, top, rest, shift_rows = (x[q_index] for x in by_row)
            allowed = tiles.allowed(mask, q_index, k_index)
            scores = attention_scores(q_rows, k_rows, allowed, dtype)
            weights = jnp.exp(scores - top.T[..., None]) * jnp.exp(-rest.T[..., None])
            d_weights = jnp.einsum("qhd,khd->hqk", d_rows, v_rows.astype(dtype))
            dropped = weights
            tile_rng = tiles.rng(rng, q_index, k_index)
            if tiles.dropout and tile_rng is not None:
                keep = keep_weights(tile_rng, tiles.dropout, weights.shape, dtype)
                dropped, d_weights = weights * keep, d_weights * keep
            d_scores = weights * (d_weights + shift_rows.T[..., None]) * scale
            # The products below run in the inputs' dtype, sums in the state's.
            d_scores = d_scores.astype(query.dtype)
            sums_in = {"preferred_element_type": dtype}
            d_query = d_query.at[q_index].add(
                jnp.einsum("hqk,khd->qhd", d_scores, k_rows, **sums_in)
            )
            d_key += jnp.einsum("hqk,qhd->khd", d_scores, q_rows, **sums_in)
            d_value_ += jnp.einsum(
                "hqk,qhd->khd",
                dropped.astype(value.dtype),
                d_rows.astype(value.dtype),
                **sums_in,
            )
            return d_query, d_key, d_value_

        start = d_query, jnp.zeros(k_rows.shape, dtype), jnp.zeros(v_rows.shape, dtype)
        first, stop = tiles.query_tiles(mask, k_index)
        d_query, d_key, d_value_ = lax.fori_loop(first, stop, add_tile, start)
        return d_query, (d_key, d_value_)

    d_query = jnp.zeros(by_row[0].shape, dtype)
    indexed = jnp.arange(tiles.k_count), tiles.of_keys(key), tiles.of_keys(value)
    d_query, (d_key, d_value_) = lax.scan(column_of_tiles, d_query, indexed)
    return (
        _joined(d_query, tiles.q_len),
        _joined(d_key, tiles.kv_len),
        _joined(d_value_, tiles.kv_len),
    )


def _or_zeros(cotangent: Array | None, like: Array) -> Array:
    return jnp.zeros_like(like) if cotangent is None else cotangent
