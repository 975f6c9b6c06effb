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
def reliability(session: nox.Session) -> None:
    """Kill, stop and damage whole runs, many times: do they end as if nothing was?
    And read a thousand damaged files of each kind.

    `test` has a run of each kind, and thirty files.
    """
    install(session, "test")
    session.run("pytest", "-m", "reliability", "--dist=load", *session.posargs)
    files = "tests/train/test_hostile.py", "tests/train/test_any_files.py"
    if not session.posargs:
        session.run("pytest", "--hypothesis-profile=hunt", "--dist=load", *files)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare imported models with the parents' own libraries, which it installs.

    One of them is of 2023 and has an environment of its own, of Python 3.11.
    """
    install(session, "parity")
    folder = pathlib.Path(session.create_tmp(), "perceiver-io")
    python = str(folder / "bin" / "python")
    pip = python, "-m", "pip", "install", "--quiet"
    session.run("python", "-m", "venv", "--clear", str(folder))
    needed = nox.project.dependency_groups(PROJECT, "perceiver-io")
    session.run(*pip, *needed, external=True)
    whatever = "--no-deps", "--ignore-requires-python"
    session.run(*pip, *whatever, "perceiver-io==0.11.0", external=True)
    # Warnings are errors elsewhere; here they are those of other libraries.
    env = {"PERCEIVER_IO_PYTHON": python}
    session.run("pytest", "-m", "parity", "-W", "ignore", *session.posargs, env=env)


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
def tasks(session: nox.Session) -> None:
    """Fetch the data of each task config, and train it, small.

    `-- NAME ...` takes some of them. What needs Debian's packages is left out where
    there is no apt-get, and told.
    """
    install(session, "tasks")
    session.run("python", "-m", "tests.task_configs", *session.posargs)


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
    """Execute every notebook from its script, and draw the pictures of the README.

    A failed assertion fails the run.
    """
    install(session, "notebooks")
    for script in sorted(pathlib.Path("notebooks").glob("*.py")):
        session.run("jupytext", "--update", "--to", "ipynb", "--execute", str(script))
    session.run("python", "notebooks/pictures/draw.py")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and run the README's example on it alone."""
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", session.create_tmp())
    built = max(pathlib.Path(session.create_tmp()).glob("*.whl"))
    session.install("--force-reinstall", str(built))
    session.run("python", "tests/readme_example.py", "README.md")
