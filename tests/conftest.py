"""Settings of every test: deterministic hypothesis, and quick compilation."""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest


# Examples are the same on every run: a failure in CI is a failure at home.
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, max_examples=30
)
hypothesis.settings.register_profile("hunt", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("ci")

# Tests run tiny shapes once or twice: compiling them is nearly all of their time.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):
    # A third of that time, the newest for Python 3.11 takes to emit fused loops in a
    # way that can be turned off there, and only there.
    flags = os.environ.get("XLA_FLAGS", "")
    quick = "--xla_cpu_use_fusion_emitters=false"
    quick += " --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{flags} {quick}"
# Whole runs compile the same programs in many tests, and in processes that these start:
# each is compiled once. The folder is that of the process which starts the workers.
CACHE = "JAX_COMPILATION_CACHE_DIR"
if CACHE not in os.environ:
    own_cache = tempfile.mkdtemp(prefix="pqx_tests_")
    os.environ[CACHE] = own_cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1"
else:
    own_cache = None
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
# What is split over devices is tested on the eight that a processor can pass for.
jax.config.update("jax_num_cpu_devices", 8)


# Files of tests that take minutes, the longest first: begun last, they would be waited
# for by all others.
LONGEST = (
    "train/test_two_processes",
    "train/test_loop",
    "train/test_sharding",
    "test_model",
    "test_streaming",
    "test_context",
    "test_generate",
    "test_byte_lm",
    "train/test_loss",
    "test_perceiver_ar",
    "test_memory",
    "quality/test_models",
    "test_package",
    "attention/test_prefix_fused",
    "test_beams",
    "train/test_plan",
    "train/test_golden",
    "train/test_every_config",
    "train/test_interruptions",
    "train/test_step",
)


def pytest_collection_modifyitems(items: list[pytest.Item]):
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_unconfigure():
    if own_cache is not None:
        shutil.rmtree(own_cache, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _compiled_code_is_given_back():
    """Each compiled function holds some hundred memory maps of the 65,530 that Linux
    lends a process, and one too many aborts it: they go with the file they were for."""
    yield
    jax.clear_caches()
