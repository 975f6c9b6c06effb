"""What a user gets: the public names, a light import, and the README's example."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import perceiver_eqx as pqx
from tests.readme_example import example


ROOT = Path(__file__).parent.parent
NAMES = (
    "ByteLM CausalPerceiver Rules SoftmaxAverage StepMask attend beam_search "
    "explain_engine generate log_prob merge prefix_attend stream FrameInput "
    "StreamInput StreamModel StreamOutput SwitchOutput SymbolInput SymbolOutput "
    "ValueInput ValueOutput sample_steps"
)


def test_the_public_names_are_there_with_docstrings():
    for name in NAMES.split():
        assert getattr(pqx, name).__doc__


def test_importing_the_library_imports_none_of_the_trainers_packages():
    program = (
        "import sys, perceiver_eqx; "
        "print(sorted({'optax', 'grain', 'orbax', 'matplotlib', 'tyro', 'train'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_without_the_triton_backend_of_pallas_the_fused_kernels_step_aside():
    """JAX has announced the end of it."""
    program = """
import sys
sys.modules["jax.experimental.pallas.triton"] = None
import jax, jax.numpy as jnp, perceiver_eqx as pqx
from perceiver_eqx.attention.parts import StepSizes, attend_steps
from tests.attention.test_parts import DenseKernel
x = jnp.ones((8, 2, 64))
print(pqx.attend(x, x, x, pqx.StepMask(4, 4, 2, 2)).shape)
try:
    attend_steps(x, x, x, StepSizes(2, 2, None), DenseKernel())
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "(8, 2, 64)",
        "this version of JAX has no Triton backend for Pallas",
    ]


def test_the_readmes_example_runs():
    exec(compile(example(ROOT / "README.md"), "README.md", "exec"), {})


def test_the_readmes_adapter_learns_and_is_sampled(capsys):
    """Of two doors, one is gone through around 9, and one around 17."""
    code = example(ROOT / "README.md", 1)
    assert len(code.splitlines()) < 40
    exec(compile(code, "README.md", "exec"), {})
    nats, *drawn = capsys.readouterr().out.splitlines()
    assert float(nats) > -2
    numbers = " ".join(drawn).translate({ord("["): " ", ord("]"): " "}).split()
    visitors = np.array(numbers, float).reshape(2, 24)
    around = visitors @ np.arange(24) / visitors.sum(1)
    assert np.all(abs(around - [9, 17]) < 2)


def test_the_readmes_perceiver_io_reads_a_number_for_each_pixel(capsys):
    exec(compile(example(ROOT / "README.md", 2), "README.md", "exec"), {})
    assert capsys.readouterr().out == "(1024, 1)\n"
