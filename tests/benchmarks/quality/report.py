"""What was found: tables of the results, and a plot.

Runs are compared within one setting: all but the row, its learning rate and its seed.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from statistics import fmean

from .results import newest


SCORES = "validation", "validation_plain", "test", "test_plain"
_OF_A_SETTING = "row", "arguments", "learning_rate", "seed", "test"
_LEGEND = (
    "ranked by bits per byte of validation; * the best of the learning rates is at the "
    "edge of those tried; ? the learning rates have no seed in common"
)


def best_of_rows(results: Iterable[dict]) -> list[dict]:
    """Of each row in each setting the learning rate with the least bits per byte of
    validation; best first.

    Rates are compared by the mean over the seeds that all rates of the row have. Where
    there are none, all rates are returned, with the mark `?`.

    Returns:
        for each, its first seed's result, with the means of `SCORES` over all seeds of
        that rate, their number as `seeds`, and a `mark`.
    """
    found = []
    for _, of_row in _grouped(newest(results), lambda r: (_setting(r), _row(r))):
        rates = {
            rate: {run["run"]["seed"]: run for run in runs}
            for rate, runs in _grouped(of_row, _rate)
        }
        common = set.intersection(*(set(seeds) for seeds in rates.values()))
        if not common:
            found += [_mean_of_seeds(seeds, "?") for seeds in rates.values()]
            continue
        means = {
            rate: fmean(seeds[seed]["validation"] for seed in common)
            for rate, seeds in rates.items()
        }
        best = min(means, key=lambda rate: means[rate])
        at_edge = len(rates) > 1 and best in (min(rates), max(rates))
        found.append(_mean_of_seeds(rates[best], "*" if at_edge else ""))
    return sorted(found, key=lambda result: result["validation"])


def table(results: Iterable[dict]) -> str:
    """For each setting the best learning rate of each row, then every run, and the loss
    by position of the best."""
    tables = [
        "\n".join(_table_of_setting(setting, list(runs)))
        for setting, runs in _grouped(newest(results), _setting)
    ]
    return "\n\n\n".join([*tables, _LEGEND]) if tables else "no results yet"


def plot(results: Iterable[dict], path: Path, *, merged: bool = False) -> None:
    """Bits per byte against operations, a line for what differs in the amount of the
    budget only, and each best run's curve of validation, of its first seed, against
    operations and against seconds.

    Args:
        merged: as in `lines`.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    # The ends lie close together where the curves begin far above them.
    figure, (final, by_flops, by_seconds) = plt.subplots(
        1, 3, figsize=(10.5, 4.2), layout="constrained"
    )
    by_seconds.sharey(by_flops)
    for place, (label, runs) in enumerate(lines(results, merged=merged)):
        style = {
            "color": f"C{place % 10}",
            "linestyle": ("-", ":", "--", "-.")[place // 10 % 4],
        }
        points = [(run["flops"], run["validation"]) for run in runs]
        marker = "os^Dv"[place % 5]
        final.plot(*zip(*points, strict=True), marker=marker, label=label, **style)
        for run in runs:
            bits = [point["bits_per_byte"] for point in run["curve"]]
            for axes, unit in ((by_flops, "flops"), (by_seconds, "seconds")):
                places = [point[unit] for point in run["curve"]]
                axes.plot(places, bits, marker=marker, markersize=3, **style)
    final.set(title="whole validation split", xlabel="operations", xscale="log")
    final.set_ylabel("bits per byte")
    by_flops.set(title="first 256 KiB", xlabel="operations", xscale="log")
    by_seconds.set(title="first 256 KiB", xlabel="seconds of training")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def lines(
    results: Iterable[dict], *, merged: bool = False
) -> list[tuple[str, list[dict]]]:
    """The lines of the plot: best results that differ in the amount of the budget only,
    in its order, and a label that says by what they differ from other lines.

    Args:
        merged: of all variants of a row, take the best at each budget.
    """
    best, name = best_of_rows(results), _declared if merged else _row
    if merged:
        of_budgets = _grouped(best, lambda r: (_setting(r), name(r)))
        best = [min(same, key=lambda r: r["validation"]) for _, same in of_budgets]
    grouped = [
        (setting, row, sorted(runs, key=lambda run: run["flops"]))
        for (setting, row), runs in _grouped(
            best, lambda r: (_setting(r, amount=False), name(r))
        )
    ]
    parts = {name for setting, *_ in grouped for name, _ in setting}
    kinds = {name: {dict(s).get(name) for s, *_ in grouped} for name in parts}
    return [
        (
            ", ".join(
                [row, *(f"{n} {value}" for n, value in setting if len(kinds[n]) > 1)]
            ),
            runs,
        )
        for setting, row, runs in grouped
    ]


def _table_of_setting(
    setting: tuple[tuple[str, str], ...], runs: list[dict]
) -> Iterator[str]:
    best = best_of_rows(runs)
    yield ", ".join(f"{name} {value}" for name, value in setting)
    yield _HEAD
    yield from map(_line, best)
    yield from ("", "every run", _HEAD)
    for result in sorted(runs, key=lambda r: (_row(r), _rate(r), r["run"]["seed"])):
        yield _line(result)
    for result in runs:
        chosen = any((_row(result), _rate(result)) == (_row(b), _rate(b)) for b in best)
        if chosen and "positions" in result:
            yield ""
            yield from _positions(result)


_HEAD = (
    f"{'lr':>7}  {'seeds':>6} {'bits/byte':>9} {'test':>7} {'plain':>7} "
    f"{'params':>7} {'steps':>7} {'operations':>10} {'MB/s':>6} {'TFLOP/s':>7} "
    f"{'temp GiB':>8}  row"
)


def _line(result: dict) -> str:
    test = f"{result['test']:.4f}" if "test" in result else ""
    temp = f"{(result['temp_bytes'] or 0) / 2**30:.2f}"
    # Of one run which seed, of a mean how many.
    seeds = result.get("seeds", f"seed {result['run']['seed']}")
    return (
        f"{_rate(result):>7.1e}{result.get('mark', ''):1} {seeds:>6} "
        f"{result['validation']:>9.4f} {test:>7} {result['validation_plain']:>7.4f} "
        f"{result['parameters'] / 1e6:>6.1f}M {result['steps']:>7} "
        f"{result['flops']:>10.2e} {result['bytes_per_second'] / 1e6:>6.2f} "
        f"{result['flops_per_second'] / 1e12:>7.1f} {temp:>8}  {_row(result)}"
    )


def _positions(result: dict) -> Iterator[str]:
    """Loss by position: a line a bin, a column a way to read."""
    found = dict(result["positions"])
    bins = found.pop("bins")
    run = result["run"]
    yield (
        f"bits per byte by position, {run['row']} lr {run['learning_rate']:g} seed "
        f"{run['seed']}"
    )
    yield f"{'from':>9} {'to':>9}" + "".join(f"  {name}" for name in found)
    for (first, last), *bits in zip(bins, *found.values(), strict=True):
        numbers = zip(found, bits, strict=True)
        told = "".join(f"  {value:>{len(name)}.4f}" for name, value in numbers)
        yield f"{first:>9} {last:>9}{told}"


def _setting(result: dict, *, amount: bool = True) -> tuple[tuple[str, str], ...]:
    """What a comparison holds fixed, by name; of the budget its amount too, or only its
    kind. A budget of seconds is worth what its device is."""
    setting = {
        name: str(value)
        for name, value in result["run"].items()
        if name not in _OF_A_SETTING
    }
    budget = result["run"]["budget"]
    unit = "seconds" if budget["flops"] is None else "operations"
    spent = budget["seconds"] if budget["flops"] is None else budget["flops"]
    setting["budget"] = f"{spent:g} {unit}" if amount else unit
    if unit == "seconds":
        setting["device"] = result["device"]
    return tuple(sorted(setting.items()))


def _row(result: dict) -> str:
    return result["run"]["row"]


def _declared(result: dict) -> str:
    """The row of which a result's is a variant."""
    return _row(result).partition(":")[0]


def _rate(result: dict) -> float:
    return result["run"]["learning_rate"]


def _mean_of_seeds(of_seeds: dict[int, dict], mark: str) -> dict:
    runs = [of_seeds[seed] for seed in sorted(of_seeds)]
    held = [name for name in SCORES if all(name in run for run in runs)]
    first = {name: x for name, x in runs[0].items() if name not in SCORES}
    means = {name: fmean(run[name] for run in runs) for name in held}
    return first | means | {"seeds": len(runs), "mark": mark}


def _grouped(results: Iterable[dict], by: Callable) -> Iterator[tuple]:
    return groupby(sorted(results, key=by), key=by)
