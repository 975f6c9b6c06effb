"""The results file: a line of JSON a run, so that runs that are there are not done
again."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[3]
CODE = "perceiver_eqx", "train", "tests/benchmarks/quality"
# What a line holds only if it was asked for.
EXTRAS = "test", "positions"


@dataclass(frozen=True)
class Budget:
    """What a run may spend: useful operations, or seconds of training.

    Raises:
        ValueError: unless exactly one is given, above 0.
    """

    flops: float | None = None
    seconds: float | None = None

    def __post_init__(self):
        given = [x for x in (self.flops, self.seconds) if x is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(
                "a budget must be one of `flops` and `seconds`, above 0, got "
                f"{self.flops} and {self.seconds}."
            )

    def __str__(self) -> str:
        return f"{self.seconds:g} s" if self.flops is None else f"{self.flops:.3g}"


@dataclass(frozen=True)
class Run:
    """All that tells one run from another.

    Args:
        row, learning_rate, seed, budget, data, optimizer, final_share, window, limit:
            as they are asked for.
        arguments: what the row's name stands for, as plain JSON.
        text: a hash of the text.
        code: `code_hash()`.
    """

    row: str
    learning_rate: float
    seed: int
    budget: Budget
    data: str
    optimizer: str = "adamw"
    final_share: float = 0.1
    window: int = 32_768
    limit: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    code: str = ""

    def __str__(self) -> str:
        return (
            f"{self.row} lr {self.learning_rate:g} seed {self.seed}, {self.optimizer}, "
            f"{self.budget}"
        )


def identity(run: Run) -> dict:
    """The run, as it stands in a line of the results."""
    return asdict(run)


def read(path: Path) -> list[dict]:
    """All results so far. A last line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def newest(results: Iterable[dict]) -> list[dict]:
    """The last line of each run: one that lacked an extra is done again."""
    of_runs = {json.dumps(result["run"], sort_keys=True): result for result in results}
    return list(of_runs.values())


def matching(
    results: Iterable[dict],
    *,
    rows: Sequence[str] | None = None,
    data: str | None = None,
    window: int | None = None,
    flops: Sequence[float] | None = None,
    codes: Sequence[str] | None = None,
) -> list[dict]:
    """The results that are of what is named; what is not named may be anything.

    Args:
        rows: names of `ROWS`, each for all of its variants.
        data, window: of a `Run`.
        flops: budgets of operations.
        codes: hashes of code, which then count as one: of codes that differ in nothing
            that matters. If several have the same run, `newest` takes the last.
    """
    asked = {
        "row": rows,
        "data": data and [data],
        "window": window and [window],
        "flops": flops,
        "code": codes,
    }
    found = []
    for result in results:
        run = result["run"]
        told = run | run["budget"] | {"row": run["row"].partition(":")[0]}
        if all(told[name] in some for name, some in asked.items() if some):
            code = "+".join(codes) if codes else run["code"]
            found.append(result | {"run": run | {"code": code}})
    return found


def extras(run: Run, results: Iterable[dict]) -> set[str] | None:
    """The `EXTRAS` that the last line of a run holds; `None` if it was not done."""
    same = [result for result in results if result["run"] == identity(run)]
    return {name for name in EXTRAS if name in same[-1]} if same else None


def code_hash() -> str:
    """Of the code of the models, training and the comparison, 12 hexadecimal digits."""
    digest = sha256()
    for path in sorted(path for part in CODE for path in (ROOT / part).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def append(path: Path, result: dict) -> None:
    """Adds a line, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * cut_off + json.dumps(result) + "\n")
