"""The models that are compared: that each is what it says."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx.blocks import CrossAttention
from perceiver_eqx.positions import rotary
from perceiver_eqx.processor import CausalProcessor
from tests.benchmarks.quality.flops import training_flops
from tests.benchmarks.quality.inference import predict, read
from tests.benchmarks.quality.models import (
    ByteTransformer,
    Model,
    PatchModel,
    PerceiverAR,
)
from tests.benchmarks.quality.rows import ROWS
from tests.helpers import assert_close, normals

from .models import SMALL, compiled, data_of, small


@pytest.mark.parametrize("name", SMALL)
def test_a_byte_is_predicted_from_those_before_it_only(name):
    model, data = small(name), data_of(32)
    first = model.context - model.targets
    bits_of = jax.jit(jax.vmap(lambda data: model.bits(data)))
    for place in (0, 7, 8, 24, 30):
        rows = np.tile(data, (256, 1))
        rows[:, place] = np.arange(256)
        bits = np.asarray(bits_of(rows), np.float64)
        same = (bits == bits[0]).all(0)
        np.testing.assert_array_equal(same, np.arange(first, 32) < place)
        # A model that is shown the byte itself gives each of them too much.
        if place >= first:
            assert np.sum(2 ** -bits[:, place - first]) == pytest.approx(1, rel=1e-5)


def test_the_perceiver_ar_attends_as_a_dense_mask_says():
    model, data = small("tiny-perceiver-ar"), data_of(32)
    symbols = jnp.asarray(np.concatenate([[256], data[:-1]]), jnp.int32)

    @jax.jit
    def dense(symbols):
        places = jnp.arange(32)
        x = model.embedding(symbols)
        queries = rotary(model.cross.queries(x), places)
        keys, values = model.cross.keys_values(x)
        scores = jnp.einsum("qhd,khd->hqk", queries, rotary(keys, places)) / np.sqrt(8)
        scores = jnp.where(np.tri(32, dtype=bool), scores, -np.inf)
        attended = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), values)
        x = model.cross.finish(x, attended)[24:]
        start = jnp.zeros((), jnp.int32)
        nothing = model.processor.empty_caches(1, x.dtype, 0)
        x = model.processor(x[:, None], nothing, start)[0][:, 0]
        return jax.nn.log_softmax(model.logits(x))

    log_probs = dense(symbols)[np.arange(8), data[24:]]
    assert_close(compiled(model)(data), -log_probs / np.log(2))


@pytest.mark.parametrize("kernel", [0, 3])
def test_the_transformer_generates_from_the_logits_that_it_is_scored_by(kernel):
    """A context at once, and then byte by byte."""
    model, data = small("tiny-transformer", f",conv_kernel={kernel}"), data_of(32)
    if kernel:
        taps = jnp.asarray(normals(0, 2, kernel, 16))
        model = eqx.tree_at(lambda m: m.processor.blocks.conv.taps, model, taps)
    row, logits = jax.jit(lambda x: read(model, x, 32))(data[:24])
    found, go_on = [*logits], jax.jit(lambda row: predict(model, row))
    for byte in data[24:]:
        row, logits = go_on(row)
        found.append(logits)
        row = eqx.tree_at(lambda row: row.last, row, jnp.int32(byte))
    log_probs = jax.nn.log_softmax(np.stack(found))[np.arange(32), data]
    assert_close(compiled(model)(data), -log_probs / np.log(2))
    assert int(row.seen) == 32


def test_steps_end_at_the_first_byte_of_a_block_that_is_of_no_word_or_at_its_last():
    model = small("tiny-words")
    data = np.frombuffer(
        b"of no word, or noneatall \xc3\xa4\xc3\xb6\xc3\xbc ", np.uint8
    )
    np.testing.assert_array_equal(model.ends(data), [2, 8 + 2, 16 + 7, 31])


def test_word_steps_without_words_are_the_combined_model():
    """Of its tables and maps for up to 15 places, the first 8 do the work."""
    words, combined = small("tiny-words", ",rule=never"), small("tiny-combined")

    def sliced(byte_lm):
        table, perceiver = byte_lm.inputs.positions.table, byte_lm.perceiver
        own, output = perceiver.encoder.own_step, perceiver.decoder.output
        dim = table.shape[1]
        return (
            table[:8],
            own.weight.reshape(15, -1, own.weight.shape[1])[:8].reshape(8 * 32, -1),
            output.weight.reshape(-1, 15, dim)[:, :8].reshape(-1, 8 * dim),
            output.bias.reshape(15, dim)[:8].ravel(),
        )

    def places(byte_lm):
        perceiver = byte_lm.perceiver
        output = perceiver.decoder.output
        own = perceiver.encoder.own_step
        return byte_lm.inputs.positions.table, own.weight, output.weight, output.bias

    arrays = jax.tree.leaves(eqx.filter(words.byte_lm, eqx.is_array))
    same = eqx.combine(
        jax.tree.unflatten(
            jax.tree.structure(eqx.filter(combined.byte_lm, eqx.is_array)), arrays
        ),
        combined.byte_lm,
    )
    same = eqx.tree_at(places, same, sliced(words.byte_lm))
    same = eqx.tree_at(lambda m: m.byte_lm, combined, same)
    data = data_of(32)
    expected = np.asarray(compiled(same)(data))
    assert_close(compiled(words)(data), expected)


def test_operations_of_a_transformer_are_those_counted_by_hand():
    model = ByteTransformer(
        dim=8, num_layers=3, num_heads=2, context=4, gated_mlp=False, key=jr.key(0)
    )
    matrices = 3 * (4 * 8 * 8 + 2 * 8 * 32) + 8 * 256
    # 1 + 2 + 3 + 4 pairs, each of which is a score and a weighted value.
    products = 4 * matrices + 3 * 10 * 2 * 8
    assert training_flops(model, 4) == 3 * 2 * products


def test_operations_of_a_perceiver_ar_are_those_counted_by_hand():
    options = {"context": 6, "targets": 2, "gated_mlp": False}
    model = PerceiverAR(dim=8, num_layers=3, num_heads=2, **options, key=jr.key(0))
    read = 6 * 2 * 8 * 8
    predicted = 2 * (4 * (2 * 8 * 8 + 2 * 8 * 32) + 3 * 2 * 8 * 8 + 8 * 256)
    pairs = (5 + 6) + 3 * (1 + 2)
    assert training_flops(model, 6) == 6 * (read + predicted + pairs * 2 * 8)


def test_operations_of_a_patch_model_are_those_counted_by_hand():
    model = PatchModel(
        patch=2,
        dim=8,
        num_layers=3,
        num_heads=2,
        local_dim=4,
        local_layers=1,
        local_heads=1,
        context=6,
        gated_mlp=False,
        key=jr.key(0),
    )
    of_patches = 3 * (3 * (4 * 8 * 8 + 2 * 8 * 32) + 8 * 2 * 4)
    of_bytes = 6 * (4 * 4 * 4 + 2 * 4 * 16 + 4 * 256)
    pairs = 3 * (1 + 2 + 3) * 2 * 8 + 3 * (1 + 2) * 2 * 4
    assert training_flops(model, 6) == 6 * (of_patches + of_bytes + pairs)


@pytest.mark.parametrize("name", ROWS)
def test_all_rows_have_gated_mlps_and_norms_of_queries_and_keys(name):
    model = eqx.filter_eval_shape(ROWS[name].build, jr.key(0))
    stacks = parts_of(model, CausalProcessor)
    assert stacks
    for stack in stacks:
        assert stack.blocks.heads.query_norm is not None
        assert stack.blocks.heads.key_norm is not None
        assert stack.blocks.mlp.gate is not None
    for cross in parts_of(model, CrossAttention):
        assert cross.mlp.gate is not None


def parts_of(model: Model, kind: type) -> list:
    found = jax.tree.leaves(model, is_leaf=lambda x: isinstance(x, kind))
    return [x for x in found if isinstance(x, kind)]


@pytest.mark.parametrize("size", ["10m", "20m", "38m"])
def test_a_transformer_is_of_the_size_in_its_name(size):
    model = eqx.filter_eval_shape(ROWS[f"transformer-{size}"].build, jr.key(0))
    millions = sum(x.size for x in jax.tree.leaves(model)) / 1e6
    assert millions == pytest.approx(int(size[:-1]), rel=0.05)


@pytest.mark.parametrize("name", ["transformer", "combined", "perceiver-ar", "patch"])
def test_rows_that_are_compared_have_twenty_to_fifty_million_parameters(name):
    model = eqx.filter_eval_shape(ROWS[name].build, jr.key(0))
    millions = sum(x.size for x in jax.tree.leaves(model)) / 1e6
    assert 20 < millions < 50


@pytest.mark.parametrize("name", ROWS)
def test_operations_of_a_row_are_counted_from_its_shapes(name):
    model = eqx.filter_eval_shape(ROWS[name].build, jr.key(0))
    parameters = [x.size for x in jax.tree.leaves(model)]
    assert training_flops(model, model.context) > 0
    assert sum(parameters) > 10_000
