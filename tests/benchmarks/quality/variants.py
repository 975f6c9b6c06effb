"""Levers of the combined model that are measured here and are not in the library: over
whole rows only, without states."""

import math
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from perceiver_eqx import ByteLM, StepMask, attend
from perceiver_eqx.adapters.bytes import delayed
from perceiver_eqx.encoder import CausalEncoder
from perceiver_eqx.layers import MLP, MultiHead
from perceiver_eqx.norms import LayerNorm
from perceiver_eqx.positions import rotary
from perceiver_eqx.processor import CausalProcessor

from .models import byte_bits


class AskingBlock(eqx.Module):
    """Cross-attention whose queries are made of content, to rows of the last steps:
    what a learned query, the same at every step, cannot ask."""

    query_norm: LayerNorm
    key_norm: LayerNorm
    heads: MultiHead
    mlp_norm: LayerNorm
    mlp: MLP
    window: int | None = eqx.field(static=True)

    def __init__(
        self,
        q_dim: int,
        kv_dim: int,
        num_heads: int,
        *,
        window: int | None,
        key: PRNGKeyArray,
    ):
        """
        Args:
            q_dim, kv_dim, num_heads: as in `MultiHead`.
            window: how many steps are seen, the own one included; `None` for all.
        """
        heads_key, mlp_key = jr.split(key)
        self.query_norm, self.key_norm = LayerNorm(q_dim), LayerNorm(kv_dim)
        options = {"qk_norm": True, "scale": 0.2}
        self.heads = MultiHead(q_dim, kv_dim, num_heads, **options, key=heads_key)
        self.mlp_norm = LayerNorm(q_dim)
        self.mlp = MLP(q_dim, 4, gated=True, scale=0.2, key=mlp_key)
        self.window = window

    def __call__(
        self,
        x: Float[Array, "steps queries q_dim"],
        rows: Float[Array, "steps keys kv_dim"],
    ) -> Float[Array, "steps queries q_dim"]:
        steps, queries, _ = x.shape
        normed, places = self.key_norm(rows), jnp.arange(steps)
        attended = attend(
            _flat(rotary(self.heads.queries(self.query_norm(x)), places)),
            _flat(rotary(self.heads.keys(normed), places)),
            _flat(self.heads.values(normed)),
            StepMask(steps, steps, queries, rows.shape[1], self.window),
        )
        x = x + self.heads.join(rearrange(attended, "(t n) h d -> t n h d", t=steps))
        return x + self.mlp(self.mlp_norm(x))


class Variant(eqx.Module):
    """The combined model with one lever or another pulled.

    - `look_window`: before the processor, latents ask the bytes of so many of the last
      steps once more, by content (Perceiver's repeated cross-attention).
    - `read_window`: each byte asks the latents of so many of the last steps, with
      queries made of the bytes before it, beside what is read of its own step.
    - `half_lives`: of the recency rates at first, from and to, in steps.
    - `residual_scale`: of the maps into the residual at first; the library's is
      `1 / sqrt(2 layers)`.
    - `tied`: the logits are products with the embedding of each byte.

    A window of 0 is none at all, `None` reaches all steps.
    """

    byte_lm: ByteLM
    look: AskingBlock | None
    read: AskingBlock | None
    context: int = eqx.field(static=True)
    tied: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        context: int,
        look_window: int | None = 0,
        read_window: int | None = 0,
        half_lives: tuple[float, float] | None = None,
        residual_scale: float | None = None,
        tied: bool = False,
        key: PRNGKeyArray,
        **sizes,
    ):
        """
        Args:
            context: bytes of a row, a multiple of `bytes_per_step`.
            sizes: the arguments of `ByteLM`.
        """
        model_key, look_key, read_key = jr.split(key, 3)
        self.byte_lm = ByteLM(**sizes, key=model_key)
        dim, num_heads = sizes["latent_dim"], sizes["num_heads"]
        local_dim = self.byte_lm.inputs.begin.size
        local_heads = self.byte_lm.outputs.layers.processor.blocks.heads.num_heads
        self.look = self.read = None
        if look_window != 0:
            self.look = AskingBlock(
                dim, local_dim, num_heads, window=look_window, key=look_key
            )
        if read_window != 0:
            self.read = AskingBlock(
                local_dim, dim, local_heads, window=read_window, key=read_key
            )
        if half_lives is not None:
            self.byte_lm = _with_half_lives(self.byte_lm, *half_lives)
        if residual_scale is not None:
            self.byte_lm = _with_residual_scale(self.byte_lm, residual_scale)
        if tied:
            self.byte_lm = eqx.tree_at(
                lambda m: (m.inputs.embedding.table, m.outputs.logits.weight),
                self.byte_lm,
                (self.byte_lm.outputs.logits.weight.T, None),
                is_leaf=lambda x: x is None,
            )
        self.tied = tied
        self.context = context

    @property
    def targets(self) -> int:
        return self.context

    def bits(
        self, data: UInt8[Array, " bytes"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " bytes"]:
        """Bits of each byte from those before it."""
        model = self.byte_lm
        if self.tied:
            # As large as the others' are at first, whose logits need small weights.
            table = model.inputs.embedding.table
            model = eqx.tree_at(
                lambda m: (m.inputs.embedding.table, m.outputs.logits.weight),
                model,
                (table * (10 * math.sqrt(table.shape[1])), table.T),
                is_leaf=lambda x: x is None,
            )
        perceiver, inputs, outputs = model.perceiver, model.inputs, model.outputs
        tokens = data.reshape(-1, model.bytes_per_step)
        start = inputs.init_state(model.dtype, keep=False)
        features, _ = inputs(tokens, start, model.dtype)
        step_late, byte_late, _ = delayed(inputs.before_all(model.dtype), features)
        x = _encoded(perceiver.encoder, inputs.tokens(step_late), None)
        if self.look is not None:
            x = self.look(x, step_late)
        x = _processed(perceiver.processor, x)
        readout = perceiver.decoder(x)
        if self.read is not None:
            readout = self.read(readout + byte_late, x) - byte_late
        start = outputs.layers.init_state(model.dtype, keep=False)
        logits, _ = outputs(readout, byte_late, start)
        return byte_bits(logits.reshape(data.size, -1), data)


class WordSteps(eqx.Module):
    """The combined model with steps that end where words do.

    Of every `block` bytes exactly one ends a step: the first that is no letter and no
    digit, or else the last (in the last block of a row always the last). So there are
    as many steps as with `block` bytes each, of 1 to `2 block - 1` bytes; whether a
    byte ends one depends on no later byte; and the masks between steps are the same. A
    step is seen by the bytes after its end.

    Source:
        Slagle, "SpaceByte" (2024), for the rule.
    """

    byte_lm: ByteLM
    context: int = eqx.field(static=True)
    block: int = eqx.field(static=True)
    rule: Literal["first", "never"] = eqx.field(static=True)

    def __init__(
        self,
        *,
        context: int,
        bytes_per_step: int,
        rule: Literal["first", "never"] = "first",
        key: PRNGKeyArray,
        **sizes,
    ):
        """
        Args:
            context: bytes of a row, a multiple of `bytes_per_step`.
            bytes_per_step: of a block.
            rule: `"first"`, or `"never"` for the last byte of each block all the same.
            sizes: the other arguments of `ByteLM`.
        """
        token_dim = max(32, sizes["latent_dim"] // bytes_per_step // 2 * 2)
        self.byte_lm = ByteLM(
            **{"token_dim": token_dim, **sizes},
            bytes_per_step=2 * bytes_per_step - 1,
            key=key,
        )
        self.context = context
        self.block = bytes_per_step
        self.rule = rule

    @property
    def targets(self) -> int:
        return self.context

    def ends(self, data: UInt8[Array, " bytes"]) -> Int[Array, " steps"]:
        """The place of the last byte of each step."""
        blocks = data.reshape(-1, self.block)
        ending = ~_is_word(blocks)
        if self.rule == "never":
            ending = jnp.zeros_like(ending)
        ending = ending.at[-1].set(False).at[:, -1].set(True)
        return self.block * jnp.arange(len(blocks)) + jnp.argmax(ending, 1)

    def bits(
        self, data: UInt8[Array, " bytes"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " bytes"]:
        """Bits of each byte from those before it."""
        model, count = self.byte_lm, data.size
        inputs, outputs, longest = model.inputs, model.outputs, model.bytes_per_step
        ends = self.ends(data)
        begins = jnp.concatenate([jnp.zeros(1, ends.dtype), 1 + ends[:-1]])
        # Of each byte, how many steps ended before it, and its place in its own.
        passed = jnp.searchsorted(ends, jnp.arange(count))
        place = jnp.arange(count) - jnp.where(passed > 0, ends[passed - 1] + 1, 0)

        x = inputs.embedding(data.astype(jnp.int32), model.dtype)
        x = x + inputs.positions.table.astype(x.dtype)[place]
        start = inputs.layers.init_state(model.dtype, keep=False)
        features, _ = inputs.layers(x, start)

        # As in the library, a step in which nothing is read goes first. The last one
        # ends with the row and is seen by none.
        begin = inputs.begin.astype(x.dtype)
        at = begins[:, None] + jnp.arange(longest)
        steps = features[jnp.minimum(at, count - 1)]
        steps = jnp.roll(steps, 1, 0).at[0].set(begin)
        held = jnp.roll(at <= ends[:, None], 1, 0)
        held = held.at[0].set(jnp.arange(longest) < self.block)
        latents = _encoded(model.perceiver.encoder, inputs.tokens(steps), held)
        latents = _processed(model.perceiver.processor, latents)

        of_steps = model.perceiver.decoder(latents).reshape(-1, x.shape[1])
        readout = of_steps[passed * longest + place]
        byte_late = jnp.concatenate([begin[None], features[:-1]])
        start = outputs.layers.init_state(model.dtype, keep=False)
        logits, _ = outputs(readout, byte_late, start)
        return byte_bits(logits, data)


def _encoded(
    encoder: CausalEncoder,
    tokens: Float[Array, "steps tokens dim"],
    held: Bool[Array, "steps tokens"] | None,
) -> Float[Array, "steps latents latent_dim"]:
    nothing = encoder.empty_prefix(tokens.dtype)
    return encoder(tokens, nothing, nothing, mask=held)[0]


def _processed(
    processor: CausalProcessor, x: Float[Array, "steps rows dim"]
) -> Float[Array, "steps rows dim"]:
    caches = processor.empty_caches(x.shape[1], x.dtype, 0)
    return processor(x, caches, jnp.zeros((), jnp.int32))[0]


def _is_word(data: UInt8[Array, "..."]) -> Bool[Array, "..."]:
    """Letters, digits, and all that is not ASCII."""
    table = np.array([chr(byte).isalnum() or byte >= 128 for byte in range(256)])
    return jnp.asarray(table)[data]


def _flat(x: Float[Array, "steps rows heads head_dim"]) -> Array:
    return rearrange(x, "t n h d -> (t n) h d")


def _with_half_lives(model: ByteLM, shortest: float, longest: float) -> ByteLM:
    shape = model.perceiver.encoder.rate_logit.shape
    rates = math.log(2) / np.geomspace(shortest, longest, math.prod(shape))
    logits = jnp.asarray(np.log(np.expm1(rates)).reshape(shape), jnp.float32)
    return eqx.tree_at(lambda m: m.perceiver.encoder.rate_logit, model, logits)


def _with_residual_scale(model: ByteLM, scale: float) -> ByteLM:
    def scaled(processor: CausalProcessor) -> CausalProcessor:
        factor = scale * math.sqrt(2 * processor.num_layers)
        return eqx.tree_at(
            lambda p: (p.blocks.heads.output.weight, p.blocks.mlp.down.weight),
            processor,
            replace_fn=lambda weight: factor * weight,
        )

    return eqx.tree_at(
        lambda m: (
            m.inputs.layers.processor,
            m.outputs.layers.processor,
            m.perceiver.processor,
        ),
        model,
        replace_fn=scaled,
    )
