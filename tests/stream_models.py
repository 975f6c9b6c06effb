"""Small models of streams for tests, built once each, and data for them."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from perceiver_eqx import (
    FrameInput,
    StreamModel,
    SwitchOutput,
    SymbolInput,
    SymbolOutput,
    ValueInput,
    ValueOutput,
)
from perceiver_eqx.adapters.grid import FourierPositions, GridInput, LearnedGrid
from perceiver_eqx.adapters.text import TextInput
from tests import oracle
from tests.helpers import normals
from tests.models import drawn


STEPS, SOURCE = 6, 5
SIZES = {"num_latents": 2, "latent_dim": 16, "num_layers": 2, "num_heads": 2}
SIZES |= {"token_dim": 6}
LATE = "notes", "sound", "symbols", "video"
AT_ONCE = "audio", "movie"
ONLY_OUT = ("label",)
SYMBOLS = drawn(SymbolInput, num_symbols=5, dim=3, symbols_per_step=2)
CONTEXT = drawn(TextInput, max_symbols=9, dim=4, num_symbols=11)


def built(inputs, outputs, window, **options) -> StreamModel:
    """A model every parameter of which matters."""
    options = {**SIZES, "latent_window": window, **options}
    return drawn(StreamModel, inputs=inputs, outputs=outputs, **options)


@functools.cache
def everything(window: int | None = 2, **options) -> StreamModel:
    """A model of every adapter, with streams seen late, at once and not at all."""
    blocks = drawn(LearnedGrid, shape=(2, 1), table_dim=3)
    inputs = {
        "symbols": SYMBOLS,
        "notes": ValueInput(4, bits=1),
        "sound": ValueInput(4, tokens_per_step=2, bits=16),
        "video": FrameInput(GridInput(1, blocks, block=(1, 2)), (2, 2)),
        "audio": ValueInput(3),
        "movie": FrameInput(GridInput(1, FourierPositions(1, (2, 2))), (2, 2)),
    }
    outputs = {
        "symbols": SymbolOutput(5, symbols_per_step=2),
        "notes": SwitchOutput(4),
        "sound": ValueOutput(4, outputs_per_step=2, bits=16, num_components=2),
        "video": ValueOutput((2, 2, 1), num_components=1),
        "label": SymbolOutput(3),
    }
    return built(inputs, outputs, window, context=CONTEXT, **options)


@functools.cache
def translator(window: int | None = 2, **options) -> StreamModel:
    """Symbols out of sounds that arrive with them and out of a text."""
    inputs = {"symbols": SYMBOLS, "audio": ValueInput(3)}
    outputs = {"symbols": SymbolOutput(5, symbols_per_step=2)}
    options = {"context": CONTEXT, "num_layers": 1, **options}
    return built(inputs, outputs, window, **options)


@functools.cache
def labeller() -> StreamModel:
    """A label of every piece of sound, without knowing those before."""
    inputs, outputs = {"audio": ValueInput(3)}, {"label": SymbolOutput(3)}
    return built(inputs, outputs, 2, num_layers=1)


def for_translator(streams):
    return {name: streams[name] for name in ("symbols", "audio")}


def some_streams(seed: int, steps: int = STEPS):
    rng = np.random.default_rng(seed)
    streams = {
        "symbols": rng.integers(5, size=(steps, 2)),
        "notes": rng.random((steps, 4)) < 0.5,
        "sound": rng.integers(2**16, size=(steps, 4)),
        "video": rng.integers(256, size=(steps, 2, 2, 1), dtype=np.uint8),
        "label": rng.integers(3, size=(steps, 1)),
        "audio": rng.normal(size=(steps, 3)).astype(np.float32),
        "movie": rng.normal(size=(steps, 2, 2, 1)).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, streams)


def some_context(seed: int, count: int = SOURCE):
    return jnp.asarray(np.random.default_rng(seed).integers(11, size=count))


def changed(name: str, x):
    """The same kind of data, no number of which is the same."""
    if x.dtype == bool:
        return ~x
    kinds = {"symbols": 5, "label": 3, "sound": 2**16, "video": 256}
    return x + 1 if name not in kinds else (x + kinds[name] // 2) % kinds[name]


@eqx.filter_jit
def run(model, streams, context=None, context_count=None):
    return model(streams, context, context_count=context_count)


@eqx.filter_jit
def log_prob(model, streams, context=None, **counts):
    return model.log_prob(streams, context, **counts)


@eqx.filter_jit
def advance(model, state, streams):
    return model.advance(state, streams)


def piece(streams, start: int, stop: int):
    return {name: x[start:stop] for name, x in streams.items()}


class Numbers(eqx.Module):
    """A user's own adapter, without anything of the library: numbers as they are."""

    tokens_per_step: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __call__(self, inputs):
        return inputs.reshape(-1, self.tokens_per_step, self.dim)


class Normal(eqx.Module):
    """A user's own adapter too: numbers of a normal distribution of deviation 1."""

    outputs_per_step: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __call__(self, readout):
        return readout

    def log_prob(self, prediction, targets):
        squares = (prediction - targets.reshape(prediction.shape)) ** 2
        return -(squares + np.log(2 * np.pi)).sum((1, 2)) / 2

    def sample(self, prediction, key):
        return prediction + jr.normal(key, prediction.shape)


@functools.cache
def of_numbers(window: int | None = 2, **options) -> StreamModel:
    inputs = {"a": Numbers(2, 3), "b": Numbers(1, 2), "c": Numbers(1, 1)}
    outputs = {"b": Normal(2, 1), "a": Normal(1, 6), "d": Normal(1, 1)}
    return built(inputs, outputs, window, **options)


def some_numbers(seed: int, steps: int = STEPS):
    shapes = {"a": (2, 3), "b": (2,), "c": (1,), "d": (1, 1)}
    return {
        name: jnp.asarray(normals(seed + i, steps, *shape))
        for i, (name, shape) in enumerate(shapes.items())
    }


def written_out(model, streams, context=None):
    """What is read of the model's latents, by stream, in float64 NumPy."""
    rows = []
    for name, entry in sorted(model.inputs.entries.items()):
        tokens = np.asarray(entry.adapter(streams[name]), np.float64)
        x = oracle.linear(entry.linear, tokens) + oracle.array(entry.places.table)
        if name in model.outputs.adapters:
            x = np.concatenate([oracle.array(model.begins[name])[None], x[:-1]])
        rows.append(x)
    source = None if context is None else model.context(context)
    readout = oracle.causal_perceiver(model.perceiver, np.concatenate(rows, 1), source)
    found, start = {}, 0
    for name, adapter in sorted(model.outputs.adapters.items()):
        part = readout[:, start : start + adapter.outputs_per_step]
        found[name] = oracle.linear(model.outputs.heads[name], part)
        start += adapter.outputs_per_step
    return found
