from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from tests.helpers import assert_close
from tests.models import TOKENS, byte_lm
from train.loss import batch_bits
from train.optim import adamw
from train.step import init_train_state, train_step


WINDOW = 4 * TOKENS


def batch_of(size, seed=0):
    data = jr.randint(jr.key(seed), (size, WINDOW), 0, 256)
    lengths = jnp.full(size, WINDOW).at[-1].set(5)
    return {"bytes": data, "length": lengths}


def stepper(optim, micro_batches=1):
    loss_fn = partial(batch_bits, chunk_steps=4)
    return eqx.filter_jit(
        partial(train_step, loss_fn=loss_fn, optim=optim, micro_batches=micro_batches)
    )


def test_a_plain_gradient_step_moves_against_the_gradient_of_the_mean():
    model, optim = byte_lm(3, num_layers=1), optax.sgd(0.1)
    batch = batch_of(4)
    state, metrics = stepper(optim)(init_train_state(model, optim), batch, jr.key(0))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def mean_bits(model):
        total, num_bytes = batch_bits(model, batch, None, chunk_steps=4)
        return total / num_bytes

    value, gradient = mean_bits(model)
    assert_close(metrics["bits_per_byte"], value)
    assert_close(metrics["gradient_norm"], optax.tree.norm(gradient))
    expected = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
    assert_close(
        eqx.filter(state.model, eqx.is_array), eqx.filter(expected, eqx.is_array)
    )
    assert int(state.step) == 1


def test_micro_batches_make_the_same_step():
    model, optim = byte_lm(3, num_layers=1), optax.sgd(0.1)
    start = init_train_state(model, optim)
    one, metrics = stepper(optim)(start, batch_of(4), jr.key(0))
    two, metrics_ = stepper(optim, 2)(start, batch_of(4), jr.key(0))
    assert_close(
        eqx.filter(two.model, eqx.is_array), eqx.filter(one.model, eqx.is_array)
    )
    assert_close(metrics_, metrics)


def test_one_batch_is_learned_by_heart():
    model = byte_lm(3, num_layers=1)
    optim = adamw(lambda step: 0.02, b1=0.9, b2=0.98, weight_decay=0.0, clip_norm=1.0)
    state, step = init_train_state(model, optim), stepper(optim)
    losses = []
    for i in range(150):
        state, metrics = step(state, batch_of(2), jr.key(i))
        losses.append(float(metrics["bits_per_byte"]))
    assert losses[-1] < 0.5 < 6 < losses[0]
    assert np.all(np.isfinite(losses))
