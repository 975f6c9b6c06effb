"""Runs the README's Python example: `python tests/readme_example.py README.md`."""

import sys
from pathlib import Path


def example(readme: Path, number: int = 0) -> str:
    """A Python block of a README, counted from 0."""
    return readme.read_text().split("```python\n")[1 + number].split("```", 1)[0]


if __name__ == "__main__":
    exec(compile(example(Path(sys.argv[1])), sys.argv[1], "exec"), {})
