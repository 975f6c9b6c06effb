"""The cuDNN engine. What needs its GPU is run there: `pytest tests/attention`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_eqx import StepMask, attend, explain_engine
from perceiver_eqx.attention.cudnn import CudnnKernel
from perceiver_eqx.attention.parts import FirstColumns, RowKernel
from tests.helpers import attention_oracle, normals, relative_error


on_gpu = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU"
)
MASKS = {
    "latents": StepMask(37, 37, 8, 8),
    "window": StepMask(128, 128, 8, 8, 16),
    "odd steps": StepMask(301, 301, 3, 3, 40),
    "odd rows": StepMask(301, 301, 1, 1),
    "own step": StepMask(61, 61, 16, 16, 1),
    "long steps": StepMask(9, 9, 100, 100, 4),
    "inputs": StepMask(40, 40, 8, 20),
    "few inputs": StepMask(70, 70, 8, 3, 9),
    "past": StepMask(100, 130, 4, 4, 31, 30),
    "much past": StepMask(25, 130, 4, 4, 106, 105),
    "first keys": StepMask(1, 75, 201, 4, None, jnp.array(61)),
    "no keys yet": StepMask(1, 75, 201, 4, None, jnp.array(-1)),
    "empty places": StepMask(100, 130, 4, 4, 31, jnp.array(11)),
    "keys": jnp.arange(300)[None] % 3 > 0,
    "any": jnp.asarray(np.random.default_rng(0).random((201, 300)) < 0.2),
    "nothing": jnp.zeros((1, 300), bool),
    "everything": None,
}


@on_gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "head_dim"),
    [(name, 64) for name in MASKS]
    + [("window", head_dim) for head_dim in (32, 40, 128, 192, 256)],
)
def test_it_equals_the_oracle_forward_and_backward(name, head_dim, dtype):
    mask = MASKS[name]
    is_step_mask = isinstance(mask, StepMask)
    rows, columns = mask.shape if is_step_mask else (201, 300)
    query, d_out = (normals(seed, rows, 4, head_dim) for seed in range(2))
    key, value = (normals(seed, columns, 2, head_dim) for seed in (2, 3))
    arrays = [jnp.asarray(x, dtype) for x in (query, key, value, d_out)]
    allowed = mask.dense() if is_step_mask else True if mask is None else mask
    allowed = np.broadcast_to(allowed, (rows, columns))

    @jax.jit
    def run(query, key, value, d_out):
        out, vjp = jax.vjp(
            lambda *x: attend(*x, mask, engine="cudnn"), query, key, value
        )
        return out, *vjp(d_out)

    query, key, value, d_out = arrays
    wide = [np.repeat(np.asarray(x, float), 2, axis=1) for x in (key, value)]
    *expected, d_key, d_value = attention_oracle(query, *wide, allowed, d_out)
    for gradient in (d_key, d_value):
        expected.append(gradient.reshape(columns, 2, 2, head_dim).sum(2))
    for found, wanted in zip(run(*arrays), expected, strict=True):
        # One rounding to bfloat16 is 2e-3; a rounded log-sum-exp would cost 8e-3.
        assert relative_error(found, wanted) <= 4e-3


@on_gpu
def test_batches_of_batches_in_a_scan_with_checkpoints_are_as_one_by_one():
    mask = StepMask(20, 20, 8, 8, 5)
    batch = [
        jnp.asarray(normals(seed, 2, 3, 160, 2, 64), "bfloat16") for seed in (0, 1)
    ]

    def loss(query, key):
        def layer(x, _):
            return attend(x, key, key, mask, engine="cudnn"), None

        x, _ = jax.lax.scan(jax.checkpoint(layer), query, None, length=2)
        return jnp.sum(x.astype(jnp.float32) ** 2)

    gradient = jax.grad(loss, (0, 1))
    found = jax.jit(jax.vmap(jax.vmap(gradient)))(*batch)
    for one in np.ndindex(2, 3):
        expected = gradient(*(x[one] for x in batch))
        for x, y in zip(found, expected, strict=True):
            assert relative_error(x[one], y) <= 2e-3


@on_gpu
def test_batches_with_different_numbers_of_keys_are_as_one_by_one():
    query, key = (
        jnp.asarray(normals(seed, 3, 40, 2, 64), "bfloat16") for seed in (0, 1)
    )

    def loss(query, key, count):
        mask = StepMask(1, 40, 40, 1, None, count - 1)
        return jnp.sum(attend(query, key, key, mask, engine="cudnn") ** 2)

    gradient, counts = jax.grad(loss, (0, 1)), jnp.array([0, 17, 40])
    found = jax.jit(jax.vmap(gradient))(query, key, counts)
    for one, count in enumerate(counts):
        expected = gradient(query[one], key[one], count)
        for x, y in zip(found, expected, strict=True):
            assert relative_error(x[one], y) <= 2e-3


@on_gpu
@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [(64, 192, None), (63, 35, None), (64, 192, 100), (63, 35, 17)],
)
def test_the_kernel_by_itself_without_a_mask(rows, columns, count):
    query, d_out = (jnp.asarray(normals(i, rows, 2, 64), "bfloat16") for i in range(2))
    key, value = (
        jnp.asarray(normals(i, columns, 2, 64), "bfloat16") for i in range(2, 4)
    )

    @jax.jit
    def run(query, key, value, d_out):
        seen = FirstColumns(None if count is None else jnp.array(count))
        out, lse = CudnnKernel().forward(query, key, value, seen)
        rows = query, key, value, out, lse, d_out
        return out, *CudnnKernel().backward(*rows, seen)

    seen = np.arange(columns) < (columns if count is None else count)
    allowed = np.broadcast_to(seen, (rows, columns))
    expected = attention_oracle(query, key, value, allowed, d_out)
    for found, wanted in zip(run(query, key, value, d_out), expected, strict=True):
        assert relative_error(found, wanted) <= 4e-3


def test_the_kernel_is_what_the_parts_ask_for():
    assert isinstance(CudnnKernel(), RowKernel)


def test_a_mask_of_another_size_is_refused_before_any_kernel_is_chosen():
    x = jnp.zeros((8, 2, 16), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"`mask` must have shape .* got \(12, 12\)"):
        attend(x, x, x, StepMask(3, 3, 4, 4), engine="cudnn")


@pytest.mark.parametrize(
    ("mask", "dtype", "dropout", "message"),
    [
        (None, "float32", 0.0, "must all be bfloat16 or all float16"),
        (
            StepMask(2, 2, 4, 4, None, 0, 1),
            "bfloat16",
            0.0,
            "have its `key_start` at 0",
        ),
        (
            StepMask(2, 17, 4, 8, None, 15),
            "bfloat16",
            0.0,
            "at 1 in 8 of the key steps",
        ),
        (None, "bfloat16", 0.1, "it has no dropout"),
    ],
)
def test_what_it_cannot_serve_is_refused_with_the_reason(mask, dtype, dropout, message):
    columns = mask.shape[1] if isinstance(mask, StepMask) else 8
    x, y = jnp.zeros((8, 2, 16), dtype), jnp.zeros((columns, 2, 16), dtype)
    rng = jax.random.key(0)
    with pytest.raises(ValueError, match=f"'cudnn' cannot serve.*{message}"):
        attend(x, y, y, mask, engine="cudnn", dropout=dropout, rng=rng)


def test_a_head_of_another_width_is_refused():
    x = jnp.zeros((8, 2, 12), jnp.bfloat16)
    with pytest.raises(ValueError, match="'cudnn' cannot serve.*a multiple of 8"):
        attend(x, x, x, engine="cudnn")


def test_the_choice_is_explained_from_shapes_alone():
    def explained(rows, dtype="float32", **options):
        x = jax.ShapeDtypeStruct((rows, 2, 16), dtype)
        return explain_engine(x, x, x, **options)

    assert explained(64) == "dense: only 64 x 64 scores a head"
    assert explained(64, engine="blockwise") == "blockwise: as asked for"
    assert explained(8192).startswith("blockwise: 'cudnn' cannot serve this call: ")
