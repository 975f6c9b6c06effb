"""The results of a comparison: that like is compared with like."""

from dataclasses import replace

import pytest

from tests.benchmarks.quality import report, results
from tests.benchmarks.quality.results import Budget, Run
from tests.benchmarks.quality.rows import ROWS, find_row


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
        "weight_decay": 0.1,
        "devices": 1,
        **row.arguments,
        "local_window": [128, 1024],
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


def test_variants_of_a_row_make_one_line_of_the_best_at_each_budget():
    more = Budget(flops=2e9)
    found = [
        result_of("a", 1e-3, 0, 2.0),
        result_of("a:dropout=0.1", 1e-3, 0, 2.5),
        result_of("a", 1e-3, 0, 1.9, budget=more),
        result_of("a:dropout=0.1", 1e-3, 0, 1.5, budget=more),
        result_of("b", 1e-3, 0, 3.0),
    ]
    assert [label for label, _ in report.lines(found)] == ["a", "a:dropout=0.1", "b"]
    merged = [
        (label, [run["validation"] for run in runs])
        for label, runs in report.lines(found, merged=True)
    ]
    assert merged == [("a", [2.0, 1.5]), ("b", [3.0])]


def test_a_report_is_of_what_is_named():
    more = Budget(flops=2e9)
    found = [
        result_of("a", 1e-3, 0, 2.0, code="1"),
        result_of("a:dropout=0.1", 1e-3, 0, 1.5, code="2", budget=more),
        result_of("a", 1e-3, 0, 1.8, code="2"),
        result_of("a", 1e-3, 0, 1.7, code="3", window=1024),
        result_of("b", 1e-3, 0, 1.6, code="1", data="stdlib"),
    ]

    def scores(**asked):
        some = results.newest(results.matching(found, **asked))
        return sorted(result["validation"] for result in some)

    assert scores() == [1.5, 1.6, 1.7, 1.8, 2.0]
    assert scores(rows=["a"], window=32_768) == [1.5, 1.8, 2.0]
    assert scores(data="stdlib") == scores(rows=["b"]) == [1.6]
    assert scores(flops=[2e9]) == [1.5]
    # Of one run of two codes the last counts.
    assert scores(codes=["1", "2"]) == [1.5, 1.6, 1.8]


def test_a_budget_is_of_one_kind():
    with pytest.raises(ValueError, match="one of `flops` and `seconds`"):
        Budget(flops=1e9, seconds=3)
