"""The cuDNN engine. What needs its GPU is run there: `pytest tests/attention`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx import StepMask, attend
from perceiver_eqx.attention.cudnn import CudnnKernel
from perceiver_eqx.attention.parts import CausalKernel
from tests.helpers import attention_oracle, normals, relative_error


on_gpu = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU"
)


@on_gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("steps", "per_step", "window", "head_dim"),
    [(37, 8, None, 64), (128, 8, 16, 64), (300, 3, 40, 128), (61, 16, 1, 32)],
)
def test_it_equals_the_oracle_forward_and_backward(
    steps, per_step, window, head_dim, dtype
):
    mask = StepMask(steps, steps, per_step, per_step, window)
    arrays = [
        jnp.asarray(normals(seed, steps * per_step, 4, head_dim), dtype)
        for seed in range(4)
    ]

    @jax.jit
    def run(query, key, value, d_out):
        out, vjp = jax.vjp(
            lambda *x: attend(*x, mask, engine="cudnn"), query, key, value
        )
        return out, *vjp(d_out)

    expected = attention_oracle(*arrays[:3], np.asarray(mask.dense()), arrays[3])
    for found, wanted in zip(run(*arrays), expected, strict=True):
        # One rounding to bfloat16 is 2e-3; a rounded log-sum-exp would cost 8e-3.
        assert relative_error(found, wanted) <= 4e-3


def test_the_kernel_is_what_the_parts_ask_for():
    assert isinstance(CudnnKernel(), CausalKernel)


def test_a_mask_of_another_size_is_refused_before_any_kernel_is_chosen():
    x = jnp.zeros((8, 2, 16), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"`mask` must have shape .* got \(12, 12\)"):
        attend(x, x, x, StepMask(3, 3, 4, 4), engine="cudnn")


@pytest.mark.parametrize(
    ("mask", "dtype", "message"),
    [
        (None, "bfloat16", "the mask must be a StepMask"),
        (StepMask(2, 4, 4, 2), "bfloat16", "the mask must be a StepMask"),
        (StepMask(2, 2, 4, 4, query_start=1), "bfloat16", "the mask must be a StepM"),
        (StepMask(2, 2, 4, 4), "float32", "must all be bfloat16 or all float16"),
    ],
)
def test_what_it_cannot_serve_is_refused_with_the_reason(mask, dtype, message):
    x = jnp.zeros((8, 2, 16), dtype)
    with pytest.raises(ValueError, match=f"'cudnn' cannot serve.*{message}"):
        attend(x, x, x, mask, engine="cudnn")
