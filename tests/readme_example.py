"""Runs the README's Python example: `python tests/readme_example.py README.md`."""

import sys
from pathlib import Path


def example(readme: Path) -> str:
    """The first Python block of a README."""
    return readme.read_text().split("```python\n", 1)[1].split("```", 1)[0]


if __name__ == "__main__":
    exec(compile(example(Path(sys.argv[1])), sys.argv[1], "exec"), {})
