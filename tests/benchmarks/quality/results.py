"""The results file: a line of JSON a run, so that runs that are there are not done
again."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


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
    """All that tells one run from another."""

    row: str
    learning_rate: float
    seed: int
    budget: Budget
    data: str
    optimizer: str = "adamw"
    final_share: float = 0.1
    window: int = 32_768
    limit: int | None = None
    test: bool = False

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


def is_done(run: Run, results: list[dict]) -> bool:
    return any(result["run"] == identity(run) for result in results)


def append(path: Path, result: dict) -> None:
    """Adds a line, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * cut_off + json.dumps(result) + "\n")
