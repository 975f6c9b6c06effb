"""The adapters of Perceiver IO: text, grids, several modalities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx.adapters.grid import (
    ConvStem,
    FourierPositions,
    GridInput,
    LearnedGrid,
    neighbourhoods,
)
from perceiver_eqx.adapters.modalities import Padding, in_a_row, parted
from perceiver_eqx.adapters.text import (
    CLASSIFY,
    MASK,
    SEPARATE,
    TextInput,
    symbols_text,
    text_symbols,
)
from perceiver_eqx.layers import Linear
from tests.helpers import assert_close, normals
from tests.models import drawn


def test_text_is_its_bytes_behind_six_symbols_and_back():
    text = "a naïve é".encode()
    symbols = text_symbols(text)
    assert symbols.tolist() == [CLASSIFY, *(byte + 6 for byte in text), SEPARATE]
    symbols[3] = MASK
    assert symbols_text(symbols) == text[:2] + text[3:]
    assert text_symbols(text, framed=False).tolist() == [byte + 6 for byte in text]


def test_a_token_is_the_vector_of_its_symbol_and_of_its_place():
    adapter = drawn(TextInput, max_symbols=9, dim=4)
    symbols = jnp.asarray([5, 261, 5])
    table, places = adapter.embedding.table, adapter.positions
    assert_close(adapter(symbols), table[symbols] + places[:3])
    x, bias = jnp.asarray(normals(0, 2, 4)), jnp.arange(262.0)
    assert_close(adapter.logits(x, bias), np.asarray(x) @ np.asarray(table).T + bias)
    with pytest.raises(ValueError, match=r"must be at most 9 \(max_symbols\), got 10"):
        adapter(jnp.zeros(10, int))


def test_a_grid_is_read_row_by_row_each_value_beside_its_position():
    adapter = GridInput(2, FourierPositions(3, (4, 6)))
    grid = jnp.asarray(normals(0, 4, 6, 2))
    tokens = adapter(grid)
    assert tokens.shape == (24, adapter.dim) == (24, 2 + 2 * 7)
    assert np.array_equal(tokens[:, :2], grid.reshape(24, 2))
    # Coordinates, from edge to edge.
    assert np.array_equal(tokens[0, 2:4], [-1, -1])
    assert np.array_equal(tokens[-1, 2:4], [1, 1])
    assert_close(tokens[6, 2:4], jnp.asarray([-1 / 3, -1]))


def test_bytes_of_an_image_are_numbers_as_any_others():
    adapter = GridInput(1, FourierPositions(2, (3, 3)))
    image = jnp.arange(9, dtype=jnp.uint8).reshape(3, 3, 1)
    assert np.array_equal(adapter(image), adapter(image.astype(jnp.float32)))


def test_blocks_of_a_grid_become_channels():
    video = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    adapter = GridInput(3, FourierPositions(1, (2, 3)), block=(2, 2, 2))
    tokens = adapter(video)
    assert tokens.shape == (6, 24 + 6)
    expected = video[:, 2:4, 4:6]  # the last block
    assert np.array_equal(tokens[5, :24], expected.ravel())
    sound = GridInput(1, FourierPositions(1, (9,)), block=(4,))
    assert np.array_equal(sound(jnp.arange(8.0)[:, None])[1, :4], [4, 5, 6, 7])
    with pytest.raises(ValueError, match=r"`axis_0` must be a multiple of 4"):
        sound(jnp.zeros((9, 1)))
    with pytest.raises(ValueError, match="`grid` must have shape"):
        sound(jnp.zeros((8, 2)))


def test_learned_positions_are_of_one_size():
    positions = drawn(LearnedGrid, shape=(2, 3), table_dim=4, dim=5)
    adapter = GridInput(3, positions, features=drawn(Linear, in_dim=3, out_dim=2))
    grid = jnp.asarray(normals(0, 2, 3, 3))
    expected = [adapter.features(grid).reshape(6, 2), positions.output(positions.table)]
    assert_close(adapter(grid), jnp.concatenate(expected, -1))
    assert adapter.dim == 7
    with pytest.raises(ValueError, match=r"are of a grid of \(2, 3\), got \(3, 2\)"):
        adapter(grid.transpose(1, 0, 2))


def test_positions_of_some_places_are_spaced_by_the_size():
    positions = FourierPositions(2, (4, 8))
    found = positions.at(jnp.asarray([0, 9, 31]), (4, 8))
    coordinates = [[-1, -1], [-1 + 2 / 4, -1 + 2 / 8], [-1 + 6 / 4, -1 + 14 / 8]]
    assert_close(found[:, :2], jnp.asarray(coordinates))


def test_the_stem_is_its_loops_written_out():
    stem = drawn(ConvStem, in_dim=2, out_dim=3)
    image = jnp.asarray(normals(0, 12, 14, 2))
    padded = np.pad(np.asarray(image, np.float64), [(3, 3), (3, 3), (0, 0)])
    variance = np.abs(np.asarray(stem.variance)) + 0.5
    stem = eqx.tree_at(lambda s: s.variance, stem, jnp.asarray(variance))
    convolved = np.zeros((6, 7, 3))
    for row, column in np.ndindex(6, 7):
        seen = padded[2 * row : 2 * row + 7, 2 * column : 2 * column + 7]
        convolved[row, column] = np.einsum("rci,rcio->o", seen, stem.weight)
    normed = (convolved - stem.mean) / np.sqrt(variance + 1e-5) * stem.scale + stem.bias
    positive = np.maximum(normed, 0)
    pooled = np.zeros((2, 3, 3))
    for row, column in np.ndindex(2, 3):
        seen = positive[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        pooled[row, column] = seen.max((0, 1))
    with jax.default_matmul_precision("highest"):
        assert_close(stem(image), pooled)


def test_neighbours_are_those_of_the_pixel():
    image = jnp.asarray(normals(0, 2, 4, 5, 3))
    found = neighbourhoods(image)
    assert found.shape == (2, 4, 5, 27)
    assert np.array_equal(found[1, 2, 3].reshape(3, 3, 3), image[1, 1:4, 2:5])
    assert np.all(found[0, 0, 2].reshape(3, 3, 3)[0] == 0)


def test_modalities_are_filled_up_and_parted_again():
    padding = Padding({"b": 3, "a": 5}, min_padding=2, key=jr.key(0))
    tokens = {"b": jnp.ones((2, 3)), "a": jnp.zeros((4, 5))}
    filled = padding(tokens)
    assert padding.dim == 7
    assert np.array_equal(filled["b"][1], [1, 1, 1, *padding.channels["b"]])
    row = in_a_row(filled)
    assert np.array_equal(row[:4], filled["a"])
    again = parted(row, {"b": 2, "a": 4})
    assert all(np.array_equal(again[name], filled[name]) for name in "ab")
    with pytest.raises(ValueError, match=r"must be \['a', 'b'\], got \['a'\]"):
        padding({"a": tokens["a"]})
