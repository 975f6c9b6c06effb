"""`prefix_attend` in fused kernels: tokens are read twice, no prefix is ever stored.

The steps are cut into segments, a program each. One kernel averages every segment on
its own; of these few averages, one small matrix of weights makes what was seen before
each; a second kernel goes over each segment again, from there on, tile by tile. Inside
a tile it is plain attention, to which what was seen before is one more key per latent.

Backward is the mirror image. To the tokens of a tile, all that comes after it is one
more row per latent: a sum of cotangents, each by what its row sees of the tile. One
kernel gathers these sums for every segment on its own, a matrix links them, and a
second kernel spreads them over the tokens. The rate's gradient needs the age of every
pair, and so each such row comes twice, once with its parts multiplied by their ages.

The kernels themselves are those of `prefix_kernels`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .prefix_kernels import (
    attend_kernel,
    average_kernel,
    gather_kernel,
    spread_kernel,
)
from .prefix_layout import LOG2_E, Inputs, Pull, Sizes, Sum, Tiling, flat
from .softmax import (
    SoftmaxAverage,
    average_of,
    empty_average,
    finite_top,
    log_weight,
    merge,
)
from .triton import power_of_two, run_kernel


class Plan(NamedTuple):
    """The steps of a segment, a power of two no less than those of any tile, and the
    tilings of the four kernels."""

    segment: int
    average: Tiling
    attend: Tiling
    gather: Tiling
    spread: Tiling


def fused_prefix_attend(
    query: Float[Array, "latents heads head_dim"],
    key: Float[Array, "steps tokens heads head_dim"],
    value: Float[Array, "steps tokens heads head_dim"],
    rate: Float[Array, "latents heads"],
    initial: SoftmaxAverage,
    context: SoftmaxAverage | None,
    mask: Bool[Array, "steps tokens"] | None,
    plan: Plan | None = None,
) -> tuple[Float[Array, "steps latents heads head_dim"], SoftmaxAverage]:
    """`prefix_attend` by the kernels.

    Args:
        query, key, value: of one dtype, with `head_dim` a power of two from 16 on.
        rate, initial, context: in float32.
        plan: how to cut the steps; `None` for what suits the sizes.

    Source:
        Dao et al., "FlashAttention" (2022), §3.1, for the tiles and their gradients;
        Yang et al., "Gated Linear Attention" (2023), §4, for the scan over segments.
    """
    latents = query.shape[0]
    more = power_of_two(latents) - latents
    query, rate = (
        jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1)) for x in (query, rate)
    )
    empty = empty_average((more, query.shape[1]), query.shape[2])

    def pad(average):
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), average, empty)

    context = None if context is None else pad(context)
    plan = plan_of(query, *key.shape[:2]) if plan is None else plan
    result: Any = _fused(query, key, value, rate, pad(initial), context, mask, plan)
    out, final = result
    return out[:, :latents], jax.tree.map(lambda x: x[:latents], final)


def plan_of(query: Any, steps: int, tokens: int) -> Plan:
    """A plan that suits the sizes. Its numbers were found on an H100, with 8 latents
    and heads of 64 and 128 channels.

    Args:
        query: an array (latents, heads, head_dim).
    """
    latents, heads, width = query.shape
    # As many programs as keep a GPU busy, and segments few enough to be scanned fast.
    segments = min(max(2048 // heads, 64), 1024)
    least = max(16, power_of_two(1024 // tokens + 1) // 2)
    segment = min(power_of_two(-(-steps // segments)), power_of_two(steps))
    segment = max(segment, min(least, power_of_two(steps)))

    def tiling(rows: int, loaded: int, stages: int, warps: int = 1) -> Tiling:
        """So many rows and tokens at most, if a step has no more."""
        most = max(1, min(rows // latents, loaded // tokens, segment))
        whole = power_of_two(most + 1) // 2
        loaded = min(loaded, max(16, power_of_two(whole * tokens)))
        # A warp holds about 32 rows of 64 channels in its registers.
        held = max(32 * warps, whole * latents) * width
        return Tiling(whole, loaded, min(8, power_of_two(-(-held // 2048))), stages)

    average = tiling(2**20, 128, stages=3)._replace(num_warps=4)
    if tokens > 32:
        attend = tiling(32, 128, stages=2, warps=2)
    else:
        attend = tiling(max(32, width // 2), 32, stages=3 if tokens <= 4 else 2)
    gather = tiling(64, 2**20, stages=3)
    loaded = max(16, min(2048 // width, power_of_two(tokens)))
    spread = tiling(64, loaded, stages=3, warps=loaded // 16)
    return Plan(segment, average, attend, gather, spread)


@partial(jax.custom_vjp, nondiff_argnums=(7,))
def _fused(query, key, value, rate, initial, context, mask, plan):
    return _forward(query, key, value, rate, initial, context, mask, plan)[0]


def _forward(query, key, value, rate, initial, context, mask, plan):
    sizes = Sizes.of(query, key, plan.segment)
    inputs = Inputs.of(query, key, value, rate, context, mask)
    scalars, vectors = sizes.per_latent()
    (sums,) = _run(
        average_kernel,
        sizes,
        plan.average,
        (inputs,),
        (Sum(scalars, scalars, vectors),),
    )
    bounds = sizes.bounds(plan.average)
    seen = _scan_averages(sizes.split(sums), initial, rate, bounds)
    before = jax.tree.map(lambda x: x[:-1], seen)
    ones = jnp.ones_like(before.top)
    before = Sum(LOG2_E * before.lse, ones, before.value)
    out, lse = _run(
        attend_kernel,
        sizes,
        plan.attend,
        (inputs, flat(before)),
        (sizes.per_row(value.dtype), sizes.per_row()),
    )
    final = jax.tree.map(lambda x: x[-1].swapaxes(0, 1), seen)
    final = _older(final, -rate * (bounds[-1] - sizes.steps))
    residuals = query, key, value, rate, initial, context, mask, out, lse, final
    return (out.reshape(sizes.steps, sizes.latents, *out.shape[1:]), final), residuals


def _backward(plan, residuals, cotangents):
    query, key, value, rate, initial, context, mask, out, lse, final = residuals
    d_out, d_final = cotangents
    d_out = d_out.reshape(out.shape)
    sizes = Sizes.of(query, key, plan.segment)
    inputs = Inputs.of(query, key, value, rate, context, mask)
    scalars, vectors = sizes.per_latent()
    shift, gathered, beside = _run(
        gather_kernel,
        sizes,
        plan.gather,
        (inputs, lse, out, d_out),
        (sizes.per_row(), Pull(*sizes.per_latent(2)[::-1]), Pull(vectors, scalars)),
    )
    gathered, beside = sizes.split((gathered, beside))
    bounds = sizes.bounds(plan.spread)
    firsts = lse.reshape(sizes.heads, sizes.steps, -1)[:, :: sizes.segment] / LOG2_E
    # The end of the last tile, at which the final average is at least one step old.
    since = 1.0 + bounds[-1] - sizes.steps
    shift_end = (d_final.value * final.value).sum(-1) - d_final.rest
    end = final.lse - rate * since, Pull(d_final.value, shift_end)
    end_lse, end_pull = jax.tree.map(lambda x: x.swapaxes(0, 1)[None], end)
    first_lse = jnp.concatenate([firsts.swapaxes(0, 1), end_lse])
    end_pull = jax.tree.map(lambda x: jnp.concatenate([x, -since * x], 2), end_pull)
    pulls = jax.tree.map(lambda *x: jnp.concatenate(x), gathered, end_pull)
    pulls = _scan_pulls(first_lse, pulls, rate, bounds)
    after = LOG2_E * first_lse[1:], jax.tree.map(lambda x: x[1:], pulls)
    d_key, d_value, d_query, d_rate = _run(
        spread_kernel,
        sizes,
        plan.spread,
        (inputs, lse, Pull(d_out, shift), *flat(after)),
        (inputs.key, inputs.value, vectors, scalars),
    )
    d_query, d_rate, beside = jax.tree.map(
        lambda x: x.sum(0).swapaxes(0, 1), (*sizes.split((d_query, d_rate)), beside)
    )
    kept = jnp.exp(initial.lse - rate - finite_top(first_lse[0].T))
    first = jax.tree.map(lambda x: x[0].swapaxes(0, 1), pulls)
    now = Pull(
        kept[..., None] * first.value[: sizes.latents],
        kept * first.shift[: sizes.latents],
    )
    aged = Pull(
        kept[..., None] * first.value[sizes.latents :],
        kept * first.shift[sizes.latents :],
    )
    d_initial = _average_gradient(initial, now)
    return (
        d_query.astype(query.dtype),
        d_key.reshape(key.shape),
        d_value.reshape(value.shape),
        d_rate - d_initial.top - _average_gradient(initial, aged).top,
        d_initial,
        None if context is None else _average_gradient(context, beside),
        None,
    )


_fused.defvjp(_forward, _backward)


def _run(kernel: Callable, sizes: Sizes, tiling: Tiling, inputs, outputs) -> Any:
    """Runs a kernel over all segments of all heads."""
    return run_kernel(
        partial(kernel, sizes=sizes, tiling=tiling),
        sizes.segments * sizes.heads,
        inputs,
        outputs,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )


# Over segments: arrays (segments, heads, latents, ...).


def _scan_averages(
    sums: Sum, initial: SoftmaxAverage, rate, bounds: np.ndarray
) -> SoftmaxAverage:
    """What was seen before each segment, and after the last."""
    own = sums.top / LOG2_E + log_weight(sums.total)
    rate, ends = rate.swapaxes(0, 1), bounds[1:]
    age = (ends[:, None] - ends)[..., None, None]
    scores = jnp.where(age >= 0, own - rate * age, -jnp.inf)
    top = finite_top(scores.max(1))
    weights = jnp.exp(scores - top[:, None])
    total = weights.sum(1)
    weights = weights / jnp.where(total == 0, 1.0, total)[:, None]
    mean = jnp.einsum(
        "tshc,shcd->thcd", weights, sums.value, precision=lax.Precision.HIGHEST
    )
    new = average_of(top, log_weight(total), mean)
    old = jax.tree.map(lambda x: x.swapaxes(0, 1)[None], initial)
    seen = merge(_older(old, rate * ends[:, None, None]), new)
    return jax.tree.map(lambda *x: jnp.concatenate(x), old, seen)


def _older(average: SoftmaxAverage, loss) -> SoftmaxAverage:
    """An average from whose scores age takes so much."""
    rest = jnp.where(jnp.isneginf(average.top), -jnp.inf, average.rest - loss)
    top = jnp.broadcast_to(finite_top(average.top), rest.shape)
    value = jnp.broadcast_to(average.value, (*rest.shape, average.value.shape[-1]))
    return average_of(top, rest, value)


def _scan_pulls(lse, pulls: Pull, rate, bounds: np.ndarray) -> Pull:
    """The pulls of all that comes at and after each bound.

    Args:
        lse: as of each bound.
        pulls: those between it and the next, and at the last bound.
    """
    age = (bounds - bounds[:, None])[..., None, None]
    losses = rate.swapaxes(0, 1) * age
    weights = jnp.where(age >= 0, jnp.exp(lse[:, None] - losses - finite_top(lse)), 0.0)
    latents = rate.shape[0]

    def scan(x):
        now, aged = x[:, :, :latents], x[:, :, latents:]
        by_weight = partial(
            jnp.einsum, "tshc,shc...->thc...", precision=lax.Precision.HIGHEST
        )
        aged = by_weight(weights, aged) + by_weight(weights * age, now)
        return jnp.concatenate([by_weight(weights, now), aged], 2)

    return jax.tree.map(scan, pulls)


def _average_gradient(average: SoftmaxAverage, pull: Pull) -> SoftmaxAverage:
    """The gradient of an average that is pulled at."""
    d_lse = (average.value * pull.value).sum(-1) - pull.shift
    return SoftmaxAverage(d_lse, pull.value, d_lse)
