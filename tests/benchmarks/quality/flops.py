"""Useful operations of training, counted for every kind of model in the same way: each
product once forward and twice backward, of the pairs that the masks allow."""

from functools import singledispatch

from train.flops import pairs, train_step_flops, weights

from .models import ByteTransformer, Combined, PatchModel, PerceiverAR
from .variants import AskingBlock, Variant, WordSteps


@singledispatch
def training_flops(model, num_bytes: int) -> int:
    """Floating-point operations of one training pass over a row of so many bytes.

    Args:
        model: one of `models.py`; shapes in place of arrays will do.
        num_bytes: of the row.
    """
    raise TypeError(f"`model` must be one of the compared kinds, got {type(model)}.")


@training_flops.register
def _(model: ByteTransformer, num_bytes: int) -> int:
    stack = model.processor
    linear = num_bytes * weights((stack, model.logits))
    return _flops(linear, stack.num_layers * pairs(num_bytes, None) * stack.dim)


@training_flops.register
def _(model: PerceiverAR, num_bytes: int) -> int:
    stack, cross, rows = model.processor, model.cross, model.targets
    of_targets = stack, cross.heads.query, cross.heads.output, cross.mlp, model.logits
    linear = num_bytes * weights((cross.heads.key, cross.heads.value))
    linear += rows * weights(of_targets)
    own = pairs(rows, None)
    seen = rows * (num_bytes - rows) + own + stack.num_layers * own
    return _flops(linear, seen * stack.dim)


@training_flops.register
def _(model: PatchModel, num_bytes: int) -> int:
    stack, local = model.processor, model.local
    patches = num_bytes // model.patch
    linear = patches * weights((stack, model.to_local))
    linear += num_bytes * weights((local, model.logits))
    seen = stack.num_layers * pairs(patches, None) * stack.dim
    inside = patches * local.num_layers * pairs(model.patch, None) * local.dim
    return _flops(linear, seen + inside)


@training_flops.register
def _(model: Combined, num_bytes: int) -> int:
    return train_step_flops(model.byte_lm, num_bytes)


@training_flops.register
def _(model: WordSteps, num_bytes: int) -> int:
    return train_step_flops(model.byte_lm, num_bytes, num_bytes // model.block)


@training_flops.register
def _(model: Variant, num_bytes: int) -> int:
    byte_lm = model.byte_lm
    steps = num_bytes // byte_lm.bytes_per_step
    latents = byte_lm.perceiver.encoder.latents.shape[0]
    flops = train_step_flops(byte_lm, num_bytes)
    if model.look is not None:
        flops += _asking(model.look, steps, latents, byte_lm.bytes_per_step)
    if model.read is not None:
        flops += _asking(model.read, steps, byte_lm.bytes_per_step, latents)
    if model.tied:
        flops += _flops(num_bytes * byte_lm.inputs.embedding.table.size, 0)
    return flops


def _asking(block: AskingBlock, steps: int, queries: int, keys: int) -> int:
    heads = block.heads
    linear = steps * queries * weights((heads.query, heads.output, block.mlp))
    linear += steps * keys * weights((heads.key, heads.value))
    seen = queries * keys * pairs(steps, block.window) * block.query_norm.scale.size
    return _flops(linear, seen)


def _flops(linear: int, seen: int) -> int:
    # 2 operations a weight, a pair is two products, and thrice that in all.
    return 3 * 2 * (linear + 2 * seen)
