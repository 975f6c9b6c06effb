"""Compares models under equal budgets.

    python -m tests.benchmarks.quality --rows transformer combined:num_latents=4 \\
        --flops 3e16 --data gcide=PATH --out runs/quality

Each row at each learning rate and seed is a run, and each run a line of
`OUT/results.jsonl`; what is there already is not done again, unless the code has
changed since, or it lacks what `--test` or `--positions` ask for.
"""

import argparse
import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import jax

from . import results
from .data import load
from .programs import Programs, compile_row
from .report import plot, table
from .results import Budget, Run
from .rows import ROWS, Row, find_row
from .run import train_row


def main() -> None:
    args = _arguments()
    path = args.out / "results.jsonl"
    if not args.report:
        compare(args, path)
    found = results.read(path)
    if args.report:
        found = results.matching(
            found,
            rows=args.rows,
            data=args.data,
            window=args.window,
            flops=args.flops,
            codes=args.code,
        )
    print(table(found), flush=True)
    if found:
        with contextlib.suppress(ImportError):
            plot(found, args.out / "results.png", merged=args.merge)


def compare(args: argparse.Namespace, path: Path) -> None:
    """All runs that are not done yet."""
    args.rows = args.rows or ["transformer", "combined"]
    args.window = args.window or 32_768
    name, _, text_path = (args.data or "stdlib").partition("=")
    splits = load(name, Path(text_path) if text_path else None, args.limit)
    budgets = [Budget(flops=flops) for flops in args.flops]
    budgets += [Budget(seconds=seconds) for seconds in args.seconds]
    left: dict[str, list[tuple[Run, set[str]]]] = {}
    rows = {text: find_row(text, args.learning_rates) for text in args.rows}
    done, code = results.read(path), results.code_hash()
    asked = {name for name in results.EXTRAS if getattr(args, name)}
    for row in rows.values():
        for budget, rate, seed in _all_of(budgets, row.learning_rates, args.seeds):
            run = Run(
                row.name,
                rate,
                seed,
                budget,
                data=name,
                optimizer=args.optimizer,
                final_share=args.final_share,
                window=args.window,
                limit=args.limit,
                arguments=row.resolved(),
                text=splits.hashes["text"],
                code=code,
            )
            held = results.extras(run, done)
            if held is not None and asked <= held:
                _say(f"done before: {run}")
            else:
                # The new line takes the place of the old one, so it lacks nothing.
                left.setdefault(row.name, []).append((run, asked | (held or set())))
    _say(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, code {code}, "
        f"{splits.hashes}"
    )
    waiting = [rows[name] for name in left]
    # What compiles beside training would slow down what is timed.
    ahead = len(waiting) if args.seconds or args.compile_first else 1
    for text, compiled in zip(left, _compiled(waiting, args, ahead), strict=True):
        try:
            programs = compiled.result()
            _say(
                f"{text}: {programs.num_parameters:,} parameters, "
                f"{programs.step_flops:.3e} operations a step, compiled in "
                f"{programs.compile_seconds:.0f} s"
            )
            for run, extras in left[text]:
                _say(f"{run}")
                wanted = {name: name in extras for name in results.EXTRAS}
                result = train_row(programs, run, splits, **wanted, report=_say)
                results.append(path, result)
                _say(f"  {_told(result)}")
        except Exception as error:
            # A row that does not fit must not take the others with it.
            if args.strict:
                raise
            _say(f"{text} failed: {type(error).__name__}: {error}"[:2000])


def _all_of(
    budgets: list[Budget], rates: Sequence[float], seeds: list[int]
) -> Iterator[tuple[Budget, float, int]]:
    return ((b, r, s) for b in budgets for r in rates for s in seeds)


def _compiled(
    rows: list[Row], args: argparse.Namespace, ahead: int
) -> Iterator[Future[Programs]]:
    """The rows in order, so many of the next ones being compiled meanwhile; if that is
    all of them, they are compiled before the first is given."""
    all_first = ahead >= len(rows)
    with ThreadPoolExecutor(max_workers=4 if all_first else 1) as pool:
        futures: deque[Future[Programs]] = deque()
        begun = 0
        for place in range(len(rows)):
            for row in rows[begun : place + 1 + ahead]:
                task = compile_row, row, args.optimizer, args.final_share
                futures.append(pool.submit(*task))
                begun += 1
            if all_first:
                wait(futures)
            yield futures.popleft()


def _told(result: dict) -> str:
    return (
        f"{result['validation']:.4f} bits per byte, "
        f"{result['bytes_per_second'] / 1e6:.3f} MB/s, {result['steps']} steps, "
        f"{result['seconds']:.1f} s"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", nargs="+", metavar="ROW", help="default: transformer combined")
    add("--flops", nargs="+", type=float, default=[], help="budgets of operations")
    add("--seconds", nargs="+", type=float, default=[], help="budgets of time")
    add("--data", help="gcide=PATH, sources=FOLDER or (the default) stdlib")
    add("--out", type=Path, required=True)
    add("--learning-rates", nargs="+", type=float, help="in place of the rows' own")
    add("--seeds", nargs="+", type=int, default=[0])
    add("--optimizer", choices=("adamw", "muon"), default="muon")
    add("--final-share", type=float, default=0.1, help="of the peak learning rate")
    add("--window", type=int, help="bytes of a training window; default: 32,768")
    add("--limit", type=int, help="take only so many bytes of the text")
    add("--test", action="store_true", help="score the test split too, at the very end")
    add("--positions", action="store_true", help="add the loss by position")
    add("--compile-first", action="store_true", help="compile all rows before training")
    add("--strict", action="store_true", help="stop at the first row that fails")
    add("--report", action="store_true", help="only tables and plot, of what is named")
    add("--merge", action="store_true", help="plot the best of a row's variants alone")
    add("--code", nargs="+", help="report only runs of these codes, taken as one")
    parser.epilog = f"rows: {', '.join(ROWS)}; argument=value,... after a colon"
    args = parser.parse_args()
    if not args.report and not (args.flops or args.seconds):
        parser.error("a budget is needed: --flops or --seconds")
    return args


if __name__ == "__main__":
    main()
