"""What was found: a table of the results, and a plot."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path


def best_of_rows(results: Iterable[dict]) -> list[dict]:
    """Of each row under each budget, optimizer and text, the mean over seeds of the
    learning rate with the least bits per byte; best first."""
    found = []
    for _, of_row in _grouped(results, _setting):
        rates = [
            _mean_of_seeds(list(runs))
            for _, runs in _grouped(of_row, lambda r: r["run"]["learning_rate"])
        ]
        found.append(min(rates, key=lambda result: result["validation"]))
    return sorted(found, key=lambda result: result["validation"])


def table(results: Iterable[dict]) -> str:
    """The best learning rate of each row, then every run."""
    results = list(results)
    if not results:
        return "no results yet"
    lines = [_HEAD, *map(_line, best_of_rows(results))]
    lines += ["", "every run", _HEAD, *map(_line, sorted(results, key=_order))]
    for result in filter(lambda result: "positions" in result, best_of_rows(results)):
        lines += ["", *_positions(result)]
    return "\n".join(lines)


def plot(results: Iterable[dict], path: Path) -> None:
    """Bits per byte against operations, a line a row, and each best run's curve of
    validation against operations and against seconds."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    best = best_of_rows(results)
    figure, (final, by_flops, by_seconds) = plt.subplots(
        1, 3, figsize=(15, 6), sharey=True, layout="constrained"
    )
    for place, (name, grouped) in enumerate(_grouped(best, lambda r: r["run"]["row"])):
        runs = sorted(grouped, key=lambda run: run["flops"])
        style = {"color": f"C{place % 10}", "linestyle": "-:"[place // 10 % 2]}
        points = [(run["flops"], run["validation"]) for run in runs]
        final.plot(*zip(*points, strict=True), marker="o", label=name, **style)
        for run in runs:
            bits = [point["bits_per_byte"] for point in run["curve"]]
            for axes, unit in ((by_flops, "flops"), (by_seconds, "seconds")):
                places = [point[unit] for point in run["curve"]]
                axes.plot(places, bits, marker=".", **style)
    final.set(title="whole validation split", xlabel="operations", xscale="log")
    final.set_ylabel("bits per byte")
    by_flops.set(title="first 256 KiB", xlabel="operations", xscale="log")
    by_seconds.set(title="first 256 KiB", xlabel="seconds of training")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


_HEAD = (
    f"{'lr':>7} {'budget':>9} {'bits/byte':>9} {'plain':>7} {'test':>7} "
    f"{'params':>7} {'steps':>7} {'operations':>10} {'MB/s':>6} {'TFLOP/s':>7} "
    f"{'temp GiB':>8}  row"
)


def _line(result: dict) -> str:
    run = result["run"]
    budget = run["budget"]
    spent = f"{budget['flops']:.2g}" if budget["flops"] else f"{budget['seconds']:g} s"
    test = f"{result['test']:.4f}" if "test" in result else ""
    temp = f"{(result['temp_bytes'] or 0) / 2**30:.2f}"
    name = run["row"] + (" muon" if run["optimizer"] == "muon" else "")
    return (
        f"{run['learning_rate']:>7.1e} {spent:>9} "
        f"{result['validation']:>9.4f} {result['validation_plain']:>7.4f} {test:>7} "
        f"{result['parameters'] / 1e6:>6.1f}M {result['steps']:>7} "
        f"{result['flops']:>10.2e} {result['bytes_per_second'] / 1e6:>6.2f} "
        f"{result['flops_per_second'] / 1e12:>7.1f} {temp:>8}  {name}"
    )


def _positions(result: dict) -> Iterator[str]:
    """Loss by position: a line a bin, a column a way to read."""
    found = dict(result["positions"])
    bins = found.pop("bins")
    yield f"bits per byte by position, {result['run']['row']}"
    yield f"{'from':>9} {'to':>9}" + "".join(f"  {name}" for name in found)
    for (first, last), *bits in zip(bins, *found.values(), strict=True):
        numbers = zip(found, bits, strict=True)
        told = "".join(f"  {value:>{len(name)}.4f}" for name, value in numbers)
        yield f"{first:>9} {last:>9}{told}"


def _setting(result: dict) -> str:
    run = dict(result["run"])
    del run["learning_rate"], run["seed"]
    return str(sorted(run.items(), key=lambda item: item[0]))


def _order(result: dict) -> tuple:
    run = result["run"]
    return _setting(result), run["learning_rate"], run["seed"]


def _mean_of_seeds(runs: list[dict]) -> dict:
    names = [name for name in ("validation", "validation_plain", "test")]
    means = {
        name: sum(run[name] for run in runs) / len(runs)
        for name in names
        if all(name in run for run in runs)
    }
    return runs[0] | means


def _grouped(results: Iterable[dict], by) -> Iterator[tuple]:
    return groupby(sorted(results, key=by), key=by)
