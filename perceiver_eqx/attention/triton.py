"""What the fused kernels share. They are written in Pallas, for its Triton backend, and
run interpreted where there is no GPU. JAX has announced the end of that backend: where
it is gone, what needs it steps aside."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, PyTree


try:
    from jax.experimental.pallas import triton
except ImportError:
    triton = None

HAS_TRITON = triton is not None


def run_kernel(
    kernel: Callable,
    programs: int,
    inputs: PyTree[Array],
    outputs: PyTree[Array | jax.ShapeDtypeStruct],
    *,
    updates: dict[int, int] | None = None,
    num_warps: int = 4,
    num_stages: int = 1,
) -> Any:
    """Runs so many programs of a kernel, which takes references to all of `inputs` and
    then to all of `outputs`.

    Args:
        outputs: arrays of the shapes and dtypes of the outputs, or only these.
        updates: numbers of the inputs that are updated in place, with those of the
            outputs that they become.
        num_warps, num_stages: options of Triton.

    Raises:
        RuntimeError: this version of JAX has no Triton backend.
    """
    if triton is None:
        raise RuntimeError("this version of JAX has no Triton backend for Pallas")
    return pl.pallas_call(
        kernel,
        out_shape=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), outputs
        ),
        grid=(programs,),
        input_output_aliases=updates or {},
        interpret=not _on_gpu(),
        compiler_params=triton.CompilerParams(
            num_warps=num_warps, num_stages=num_stages
        ),
    )(*inputs)


def load(view, inside):
    """What a view of an array holds, zeros where not `inside`."""
    assert triton is not None
    return triton.load(view, mask=inside, other=jnp.zeros((), view.dtype))


def store(view, x, inside) -> None:
    """Puts `x`, in the array's dtype, where `inside`."""
    assert triton is not None
    triton.store(view, x.astype(view.dtype), mask=inside)


def dot(a, b, **transposed):
    """A matrix product in the narrower dtype of the two, its sums in float32."""
    assert triton is not None
    narrow = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return triton.dot(a.astype(narrow), b.astype(narrow), **transposed)


def power_of_two(size: int) -> int:
    """The least power of two that is no less: arrays in a kernel have such sizes."""
    return 1 << math.ceil(math.log2(size))


# What Triton makes of these keeps results below 1e-38, or takes more operations: three
# more for a power, one for a product and a sum, and twenty for a logarithm.


def exp2(x):
    return _inline("ex2.approx.ftz.f32 $0, $1;", x) if _on_gpu() else jnp.exp2(x)


def log2(x):
    return _inline("lg2.approx.ftz.f32 $0, $1;", x) if _on_gpu() else jnp.log2(x)


def fma(x, y: float, z):
    """`x * y + z`, rounded once."""
    if not _on_gpu():
        return x * y + z
    factors, terms = jnp.full_like(x, y), jnp.broadcast_to(z, x.shape)
    return _inline("fma.rn.ftz.f32 $0, $1, $2, $3;", x, factors, terms)


def _inline(assembly: str, *arrays):
    """Runs an instruction on each number of float32 arrays of one shape."""
    assert triton is not None
    (result,) = triton.elementwise_inline_asm(
        assembly,
        args=arrays,
        constraints=",".join(["=f"] + ["f"] * len(arrays)),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(arrays[0].shape, jnp.float32)],
    )
    return result


def _on_gpu() -> bool:
    return jax.default_backend() == "gpu"
