"""The comparison of models: that it compares what it says."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx.layers import CrossAttention
from perceiver_eqx.positions import rotary
from perceiver_eqx.processor import CausalProcessor
from tests.benchmarks.quality import report, results
from tests.benchmarks.quality.data import Windows, cut
from tests.benchmarks.quality.evaluate import bits_of_text, bits_restarted, stride_of
from tests.benchmarks.quality.flops import training_flops
from tests.benchmarks.quality.models import (
    ByteTransformer,
    Model,
    PatchModel,
    PerceiverAR,
)
from tests.benchmarks.quality.optimizer import learning_rate, optimizer
from tests.benchmarks.quality.positions import in_bins, stream_bits
from tests.benchmarks.quality.programs import Programs
from tests.benchmarks.quality.results import Budget, Run
from tests.benchmarks.quality.rows import ROWS, find_row

from .helpers import assert_close, normals


# Of a small row: 32 bytes, of which the Perceiver AR predicts the last 8.
SMALL = {
    "tiny-transformer": "tiny-transformer:dim=16,context=32",
    "tiny-perceiver-ar": "tiny-perceiver-ar:dim=16,context=32,targets=8",
    "tiny-patch": "tiny-patch:dim=16,local_dim=16,context=32",
    "tiny-combined": "tiny-combined:latent_dim=16,context=32",
    "tiny-variant": "tiny-variant:latent_dim=16,context=32,look_window=2,"
    "read_window=None,tied=True,half_lives=(1,8),residual_scale=1.0",
    "tiny-words": "tiny-words:latent_dim=16,context=32",
}


def small(name: str, changes: str = "") -> Model:
    build = find_row(SMALL[name] + changes).build
    return eqx.filter_jit(build)(jr.key(0))


def compiled(model: Model):
    return jax.jit(lambda data: model.bits(data))


def data_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, count).astype(np.uint8)


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


@pytest.mark.parametrize("name", ["transformer-10m", "transformer-20m"])
def test_a_small_transformer_is_of_the_size_in_its_name(name):
    model = eqx.filter_eval_shape(ROWS[name].build, jr.key(0))
    millions = sum(x.size for x in jax.tree.leaves(model)) / 1e6
    assert millions == pytest.approx(int(name[-3:-1]), rel=0.05)


@pytest.mark.parametrize("name", ROWS)
def test_operations_of_a_row_are_counted_from_its_shapes(name):
    model = eqx.filter_eval_shape(ROWS[name].build, jr.key(0))
    parameters = [x.size for x in jax.tree.leaves(model)]
    assert training_flops(model, model.context) > 0
    assert sum(parameters) > 10_000


def test_windows_hold_nothing_of_what_is_held_out():
    # Each number is told by four bytes, so that a window tells its place.
    splits = cut(np.arange(25_600, dtype=np.uint32).view(np.uint8))
    held_out = np.concatenate([splits.validation, splits.test]).view(np.uint32)
    pieces = tuple(piece.view(np.uint32) for piece in splits.train)
    assert sum(map(len, pieces)) + len(held_out) == 25_600
    windows = Windows(pieces, window=512)
    for number in range(3):
        seen = np.concatenate(windows.epoch(number))
        assert np.unique(seen).size == seen.size
        assert not np.isin(seen, held_out).any()
    assert splits.validation.size == splits.test.size == 102_400 // 16


def test_models_of_two_contexts_see_the_same_bytes_in_the_same_order():
    windows = Windows(cut(data_of(40_000)).train, window=512, seed=1)
    short, long = windows.batches(16, 128), windows.batches(4, 512)
    for _ in range(30):  # more than an epoch
        one, other = next(short), next(long)
        assert one.shape == (16, 128)
        np.testing.assert_array_equal(one.ravel(), other.ravel())


def test_a_context_that_does_not_divide_the_window_is_refused():
    windows = Windows(cut(data_of(40_000)).train, window=512)
    with pytest.raises(ValueError, match="`context` must divide the window"):
        next(windows.batches(4, 96))


def programs_of(name: str) -> Programs:
    """As much of the compiled functions as scoring takes."""
    model = small(name, ",num_layers=1")
    score = jax.jit(jax.vmap(lambda row: model.bits(row)))
    return Programs(
        find_row(name),
        init=lambda key: model,
        step=lambda *_: (None, jnp.zeros(())),
        score=lambda _, rows: score(rows),
        model_of=lambda _: model,
        context=model.context,
        targets=model.targets,
        num_parameters=0,
        step_flops=1,
        compile_seconds=0.0,
        temp_bytes=None,
        score_rows=4,
    )


@pytest.mark.parametrize("stride", [8, 5])
def test_every_byte_is_scored_once_with_as_much_before_it_as_said(stride):
    programs = programs_of("tiny-perceiver-ar")
    text, before = data_of(61), data_of(100, seed=1)
    bits = bits_of_text(programs, None, text, before, stride)
    assert bits.shape == text.shape
    bits_of = compiled(programs.model_of(None))
    whole = np.concatenate([before, text])
    for place in (0, 4, 7, 33, 60):
        end = min(100 + (place // stride + 1) * stride, 161)
        if end < 161 or 61 % stride == 0:
            expected = bits_of(whole[end - 32 : end])[100 + place - end]
            assert bits[place] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_every_byte_has_seven_eighths_of_the_context_before_it(name):
    model = eqx.filter_eval_shape(ROWS[name].build, jr.key(0))
    stride = stride_of(model)
    assert 1 <= stride <= model.targets
    assert model.context - stride >= 7 / 8 * model.context


def test_a_reader_begins_anew():
    programs = programs_of("tiny-transformer")
    text = data_of(64)
    bits = bits_restarted(programs, None, text, 16)
    alone = bits_restarted(programs, None, text[16:32], 16)
    np.testing.assert_allclose(bits[16:32], alone, rtol=1e-5)


def test_a_stream_costs_as_much_as_a_row():
    model, text = small("tiny-combined", ",num_layers=1"), data_of(2_000)
    ways = stream_bits(model.byte_lm, text)
    controls = {f"restarted_{every}" for every in (1_000, 10_000, 100_000)}
    assert set(ways) == {"whole", *controls}
    bits_of, anew = compiled(model), np.roll(text, -1_000)
    assert_close(ways["whole"], np.asarray(bits_of(text)))
    assert_close(ways["restarted_1000"][1_000:], np.asarray(bits_of(anew))[:1_000])
    found = in_bins(ways)
    assert found["bins"] == [(0, 1000), (1000, 2000)]
    assert found["whole"][0] == found["restarted_1000"][0]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_update_moves_every_parameter(name):
    model = small("tiny-patch", ",num_layers=1")
    params = eqx.filter(model, eqx.is_inexact_array)
    optim = optimizer(name, 100, 1e-3)
    gradient = jax.tree.map(lambda x: normals(1, *x.shape), params)
    updates = jax.jit(lambda g, p: optim.update(g, optim.init(p), p)[0])(
        gradient, params
    )
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    for update in jax.tree.leaves(updates):
        rms = float(jnp.sqrt(jnp.mean(jnp.square(update))))
        assert 0 < rms < 1.2e-3 / 5 + 1e-3  # the first of five steps of warm-up


def test_the_learning_rate_goes_up_and_then_down_to_its_share():
    steps = np.arange(1000)
    rates = np.asarray(learning_rate(steps, 1000, 2.0, 0.1))
    assert rates.argmax() == pytest.approx(50, abs=1)
    assert rates.max() == pytest.approx(2.0, rel=1e-3)
    assert rates[-1] == pytest.approx(0.2, rel=1e-3)


def test_a_variant_changes_what_it_names():
    row = find_row("combined:num_latents=4,dtype=float32,lr=1e-3,batch_bytes=65536")
    assert row.arguments["num_latents"] == 4
    assert row.arguments["dtype"] == "float32"
    assert row.learning_rates == (1e-3,)
    assert row.batch_bytes == 65_536
    assert find_row("patch:lr=1e-3", [1e-4]).learning_rates == (1e-3,)
    assert find_row("patch", [1e-4]).learning_rates == (1e-4,)
    assert ROWS["combined"].arguments["num_latents"] == 1
    assert row.resolved() == {
        "batch_bytes": 65_536,
        "micro_batches": 1,
        **row.arguments,
    }
    with pytest.raises(ValueError, match="`rows` must be among"):
        find_row("no-such-row")


def test_a_run_that_is_done_is_known_and_no_other(tmp_path):
    path = tmp_path / "results.jsonl"
    run = Run(
        "tiny-patch",
        1e-3,
        0,
        Budget(flops=3e16),
        "gcide",
        arguments=ROWS["tiny-patch"].resolved(),
        text="0123",
        code="4567",
    )
    done_too = replace(run, seed=1)
    others = [
        replace(run, budget=Budget(seconds=60)),
        replace(run, optimizer="muon"),
        replace(run, arguments=run.arguments | {"dim": 64}),
        replace(run, text="89ab"),
        replace(run, code="cdef"),
    ]
    results.append(path, {"run": results.identity(run), "validation": 1.5})
    with path.open("a") as file:
        file.write('{"run": cut off')
    results.append(path, {"run": results.identity(done_too), "validation": 1.5})
    found = results.read(path)
    assert results.extras(run, found) == results.extras(done_too, found) == set()
    assert [results.extras(one, found) for one in others] == [None] * 5


def test_the_last_line_of_a_run_counts_with_what_was_asked_for():
    run = Run("tiny-patch", 1e-3, 0, Budget(flops=3e16), "gcide")
    lines = [{"run": results.identity(run)}, {"run": results.identity(run), "test": 1}]
    assert results.extras(run, lines) == {"test"}
    assert results.newest(lines) == lines[1:]


def test_the_hash_of_the_code_changes_with_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    for part in results.CODE:
        (tmp_path / part / "inner").mkdir(parents=True)
    hashes = [results.code_hash()]
    for part in results.CODE:
        (tmp_path / part / "inner" / "model.py").write_text("x = 1")
        hashes.append(results.code_hash())
    assert len(set(hashes)) == 4
    assert all(len(found) == 12 for found in hashes)


def result_of(row: str, rate: float, seed: int, bits: float, **changes) -> dict:
    changes = {"budget": Budget(flops=1e9), "data": "gcide"} | changes
    run = Run(row, rate, seed, **changes)
    curve = [{"flops": 1e9, "seconds": 1.0, "bits_per_byte": bits}]
    names = "parameters", "steps", "bytes_per_second", "flops_per_second", "temp_bytes"
    spent = run.budget.flops or 1e9
    scores = {"validation": bits, "validation_plain": bits, "test": bits + 1}
    numbers = dict.fromkeys(names, 1) | {"flops": spent, "curve": curve}
    return {"run": results.identity(run), "device": "cpu"} | scores | numbers


def test_rates_are_compared_over_equal_seeds():
    found = [
        result_of("a", 1e-3, 0, 2.0),
        result_of("a", 1e-3, 1, 4.0),
        result_of("a", 3e-3, 0, 2.5),
        result_of("a", 1e-2, 0, 2.6),
        result_of("b", 1e-3, 0, 2.9),
    ]
    first, second = report.best_of_rows(found)
    assert (first["run"]["row"], first["mark"], first["seeds"]) == ("b", "", 1)
    assert (second["run"]["learning_rate"], second["mark"]) == (1e-3, "*")
    assert (second["validation"], second["test"], second["seeds"]) == (3.0, 4.0, 2)
    best = report.best_of_rows([result_of("a", 1e-4, 0, 2.7), *found[:4]])
    assert [result["mark"] for result in best] == [""]


def test_rates_without_a_seed_in_common_are_not_compared():
    found = [result_of("a", 1e-3, 0, 2.0), result_of("a", 3e-3, 1, 2.5)]
    assert [result["mark"] for result in report.best_of_rows(found)] == ["?", "?"]


def test_unlike_runs_stand_in_tables_and_lines_of_their_own(tmp_path):
    unlike = [
        {"data": "stdlib"},
        {"optimizer": "muon"},
        {"limit": 1000},
        {"window": 1024},
        {"code": "4567"},
        {"budget": Budget(seconds=60)},
    ]
    found = [result_of("a", 1e-3, 0, 2.0, **changes) for changes in ({}, *unlike)]
    found.append(result_of("a", 1e-3, 0, 1.5, budget=Budget(flops=2e9)))
    drawn = report.lines(found)
    assert sorted(len(runs) for _, runs in drawn) == [1] * 6 + [2]
    assert len({label for label, _ in drawn}) == 7
    assert all("limit" in label and "row" not in label for label, _ in drawn)
    assert [label for label, _ in report.lines(found[:1])] == ["a"]
    told = report.table(found)
    assert told.count("every run") == 8
    assert "budget 2e+09 operations" in told
    assert "optimizer muon" in told
    report.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_a_budget_is_of_one_kind():
    with pytest.raises(ValueError, match="one of `flops` and `seconds`"):
        Budget(flops=1e9, seconds=3)
