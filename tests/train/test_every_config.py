"""Every config either trains a step or is refused by the name of a field."""

import dataclasses
import inspect
import re
import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_eqx import ByteLM
from train import configs
from train.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from train.loss import batch_bits
from train.program import batch_like, optimizer_of, schedule_of
from train.step import init_train_state, train_step


def stepped(config: TrainConfig, *, run: bool) -> tuple[ByteLM, dict]:
    """The model of a config and the metrics of its first step, or only their shapes."""
    optim = optimizer_of(
        config.optim, schedule_of(config.optim, config.steps), config.model.dtype
    )

    def first_step(key):
        data = {
            name: jnp.full(x.shape, 65 if x.ndim > 1 else length_of(name, config))
            for name, x in batch_like(config).items()
        }
        model = ByteLM(**vars(config.model), key=key)
        state, metrics = train_step(
            init_train_state(model, optim),
            data,
            key,
            loss_fn=partial(batch_bits, chunk_steps=config.chunk_steps),
            optim=optim,
            micro_batches=config.micro_batches,
            spike_factor=config.optim.spike_factor,
        )
        return state.model, metrics

    how = (
        eqx.filter_jit(first_step)
        if run
        else partial(eqx.filter_eval_shape, first_step)
    )
    return how(jr.key(0))


def length_of(name: str, config: TrainConfig) -> int:
    data = config.data
    return data.window_bytes if name == "length" else data.context_bytes


@pytest.mark.parametrize("name", configs.names())
def test_every_shipped_config_builds_and_is_as_large_as_it_says(name):
    config = configs.load(name).model
    model = eqx.filter_eval_shape(
        lambda key: ByteLM(**vars(config), key=key), jr.key(0)
    )
    arrays = jax.tree.leaves(eqx.filter(model, lambda x: hasattr(x, "shape")))
    millions = sum(x.size for x in arrays) / 1e6
    told = inspect.getdoc(sys.modules[f"train.configs.{name}"]) or ""
    for number in re.findall(r"([\d.]+) M\s+parameters", told):
        digits = len(number.partition(".")[2])
        assert round(millions, digits) == float(number), millions


@pytest.mark.reliability
@pytest.mark.parametrize("name", configs.names())
def test_every_shipped_config_can_be_traced(name):
    config = configs.load(name)
    small = dataclasses.replace(config, batch_size=config.micro_batches)
    assert stepped(small, run=False)[1]["bits_per_byte"].shape == ()


# Of each field some values that it can have, and some that it cannot.
MODEL = {
    "bytes_per_step": ([1, 4, 8], [0]),
    "num_latents": ([1, 2], [0]),
    "latent_dim": ([8, 16], [0, 30]),
    "num_layers": ([1, 2], [0]),
    "num_heads": ([1, 2], [0]),
    "latent_window": ([None, 1, 5, (2, None), (3, 1)], [0, (), (0, 1)]),
    "token_dim": ([None, 4, 6], [0]),
    "local_heads": ([None, 1, 2], [0, -1]),
    "local_window": ([1, 6, (3, 9)], [0, ()]),
    "local_conv": ([0, 3], [-1]),
    "input_layers": ([0, 1, 2], [-1]),
    "output_layers": ([0, 1, 2], [-1]),
    "ngrams": ([(), (2, 5)], [(1,)]),
    "ngram_rows": ([16, 64], [17, 0]),
    "ask_context": ([True, False], []),
    "context_patch": ([1, 3], [0]),
    "context_layers": ([0, 2], [-1]),
    "context_block": ([1, 9], [0]),
    "recency": ([True, False], []),
    "own_step": ([True, False], []),
    "readout": (["queries", "places"], []),
    "mlp_widening": ([1, 3], [0]),
    "gated_mlp": ([True, False], []),
    "qk_norm": ([True, False], []),
    "dropout": ([0.0, 0.5], [-0.1, 1.0]),
    "attention_dropout": ([0.0, 0.5], [2.0]),
    "token_dropout": ([0.0, 0.5], [1.0]),
    "dtype": (["float32", "bfloat16"], []),
}
DATA = {
    "window_bytes": ([40, 56], [0, 57]),
    "context_bytes": ([11, 40], [0]),
    "validation_fraction": ([0.1], [0.0, 1.0]),
}
OPTIM = {
    "name": (["muon", "adamw"], []),
    "learning_rate": ([1e-3], [0.0, -1.0]),
    "final_share": ([0.0, 1.0], [1.5]),
    "warmup_steps": ([0, 50], [-1, 5000]),
    "weight_decay": ([0.0, 0.1], [-0.1]),
    "b1": ([0.0, 0.9], [1.0]),
    "b2": ([0.98], [-0.5]),
    "clip_norm": ([1.0], [-1.0, 0.0]),
    "spike_factor": ([None, 3.0], [0.5]),
}
RUN = {
    "batch_size": ([2, 4], [0]),
    "micro_batches": ([1, 2], [0, 3]),
    "chunk_steps": ([3, 100], [0]),
    "max_skipped": ([1], [0]),
    "hang_seconds": ([None, 5.0], [0.0, -1.0]),
    "seed": ([0, 7], [-1]),
}
GROUPS = {"model": MODEL, "data": DATA, "optim": OPTIM, "run": RUN}
ALLOWED = st.fixed_dictionaries(
    {
        group: st.fixed_dictionaries(
            {name: st.sampled_from(good) for name, (good, _) in fields.items()}
        )
        for group, fields in GROUPS.items()
    }
)
WRONG = [
    (group, name, value)
    for group, fields in GROUPS.items()
    for name, (_, bad) in fields.items()
    for value in bad
]


def built(values: dict, kind: str) -> TrainConfig:
    use_context = kind in ("pairs", "copy")
    return TrainConfig(
        model=ModelConfig(use_context=use_context, **values["model"]),
        data=DataConfig(kind=kind, **values["data"]),
        optim=OptimConfig(**values["optim"]),
        **values["run"],
    )


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_a_field_cannot_be_is_refused_by_its_name(wrong):
    group, name, value = wrong
    values = {
        group: {name: good[-1] for name, (good, _) in fields.items()}
        for group, fields in GROUPS.items()
    }
    built(values, "bytes")
    values[group][name] = value
    with pytest.raises(ValueError, match=rf"`(\w+\.)?{name}`"):
        built(values, "bytes")


@settings(max_examples=6)
@given(ALLOWED, st.sampled_from(["bytes", "pairs"]))
def test_what_a_config_can_be_can_be_traced(values, kind):
    _, metrics = stepped(built(values, kind), run=False)
    assert metrics["bits_per_byte"].dtype == jnp.float32


@pytest.mark.reliability
@settings(max_examples=20)
@given(ALLOWED, st.sampled_from(["bytes", "pairs"]))
def test_what_a_config_can_be_trains_a_step(values, kind):
    jax.clear_caches()
    trained, metrics = stepped(built(values, kind), run=True)
    assert 4 < metrics["bits_per_byte"] < 16
    for array in jax.tree.leaves(eqx.filter(trained, eqx.is_array)):
        assert np.isfinite(array).all()
