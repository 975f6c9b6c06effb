# /// script
# dependencies = ["nox>=2025.5"]
# ///
"""Every task of the project. `nox -l` lists them; `nox -s NAME -- ARGS` adds ARGS."""

import pathlib

import nox


nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["test", "lint"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str) -> None:
    requirements = nox.project.dependency_groups(PROJECT, *groups)
    session.install("-e", ".", *requirements)


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests, without the slow ones."""
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take minutes each: is every planted mistake caught?"""
    install(session, "test")
    session.run("pytest", "-m", "slow", "--dist=load", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare imported models with the parents' own libraries, which it installs."""
    install(session, "parity")
    # Warnings are errors elsewhere; here they are those of other libraries.
    session.run("pytest", "-m", "parity", "-W", "ignore", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style with ruff and types with pyright."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("pyright")


@nox.session
def train(session: nox.Session) -> None:
    """Train the combined model on real bytes, save it, and sample from it."""
    install(session, "train")
    session.run("python", "-m", "train", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time the kernels and a training step; print ratios and the compiler's memory.

    `-- --device gpu` does so on an NVIDIA GPU.
    """
    install(session, "test")
    if "gpu" in session.posargs:
        session.install("jax[cuda13]")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def notebooks(session: nox.Session) -> None:
    """Execute every notebook from its script; a failed assertion fails the run."""
    install(session, "notebooks")
    for script in sorted(pathlib.Path("notebooks").glob("*.py")):
        session.run("jupytext", "--to", "ipynb", "--execute", str(script))


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and run the README's example on it alone."""
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", session.create_tmp())
    built = max(pathlib.Path(session.create_tmp()).glob("*.whl"))
    session.install("--force-reinstall", str(built))
    session.run("python", "tests/readme_example.py", "README.md")
