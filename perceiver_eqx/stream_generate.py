"""`sample_steps`: streams drawn step by step, each step from those before it."""

from collections.abc import Mapping

import equinox as eqx
import jax.random as jr
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .adapters.streams import Draw, Streams, check_streams
from .checks import check_sizes
from .layers import matrices_in
from .stream_model import StreamModel, StreamState


@eqx.filter_jit
def sample_steps(
    model: StreamModel,
    num_steps: int,
    given: Streams | None = None,
    *,
    state: StreamState | None = None,
    context: PyTree = None,
    context_count: Int[Array, ""] | int | None = None,
    draw: Mapping[str, Draw] | None = None,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """Steps of the predicted streams, each drawn from what is predicted of it from the
    steps drawn before it.

    Args:
        model: any.
        num_steps: how many, at least 1.
        given: as many steps of the streams that are not predicted.
        state: go on from here, where no context can be given; `None` for the beginning.
        context, context_count: as of a call of the model.
        draw: as of `StreamModel.draw_step`, which draws one step, and gives the state
            after it too.

    Returns:
        by name, what was drawn.

    Raises:
        ValueError: for other streams, another number of steps, or a state and a
            context.
    """
    check_sizes(num_steps=num_steps)
    given = {} if given is None else dict(given)
    steps = check_streams(given, model.at_once)
    if given and steps != num_steps:
        raise ValueError(
            f"`given` must hold `num_steps` = {num_steps} steps, got {steps}."
        )
    if state is not None and context is not None:
        raise ValueError(
            "`context` must be `None` where a `state` is given; show it to the state "
            "by `add_context`."
        )
    if state is None:
        state = model.init_state(
            context, context_count=context_count, max_steps=num_steps
        )
    ready = matrices_in(model.dtype, model)

    def take(state, of_step):
        given, key = of_step
        one = {name: x[None] for name, x in given.items()}
        state, drawn = ready.draw_step(state, one, draw=draw, key=key)
        return state, {name: x[0] for name, x in drawn.items()}

    return lax.scan(take, state, (given, jr.split(key, num_steps)))[1]
