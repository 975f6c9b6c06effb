"""The rows of the comparison: which model, at which learning rates, in which batches.

A variant is written `row:argument=value,...`, such as `combined:num_latents=4,lr=1e-3`.
"""

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from jaxtyping import PRNGKeyArray

from .models import ByteTransformer, Combined, Model, PatchModel, PerceiverAR
from .variants import Variant, WordSteps


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Args:
        name: as it stands in the results.
        kind: the class of the model.
        arguments: of the model, all but the key; `context` is among them.
        learning_rates: peaks to try.
        batch_bytes: bytes of an optimizer step, a multiple of the context.
        micro_batches: parts of a batch that go one after the other, for memory.
        weight_decay: of matrices, times the learning rate.
        devices: over how many a batch is split; each holds all of the model.
    """

    name: str
    kind: Callable[..., Model]
    arguments: dict[str, Any] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = (4e-3, 8e-3)
    batch_bytes: int = 65_536
    micro_batches: int = 1
    weight_decay: float = 0.1
    devices: int = 1

    @property
    def dtype(self) -> str:
        """What the model computes in."""
        return self.arguments.get("dtype", "bfloat16")

    def build(self, key: PRNGKeyArray) -> Model:
        return self.kind(**self.arguments, key=key)

    def resolved(self) -> dict[str, Any]:
        """What the name stands for, as plain JSON; all but the learning rates."""
        of_row = {
            "batch_bytes": self.batch_bytes,
            "micro_batches": self.micro_batches,
            "weight_decay": self.weight_decay,
            "devices": self.devices,
        }
        return json.loads(json.dumps(of_row | self.arguments))


DEEP = {"num_layers": 12, "num_heads": 8}
TINY = {"num_layers": 2, "num_heads": 2, "dtype": "float32"}
# What suits each where a byte is seen five to ten times; the smaller needs less.
DROPOUT = {"dropout": 0.1}
SMALL_DROPOUT = {"dropout": 0.05}
COMBINED = {
    "bytes_per_step": 16,
    "num_latents": 1,
    "latent_dim": 512,
    "num_layers": 6,
    "num_heads": 8,
    "latent_window": 64,
    "local_window": (128, 1024),
    "local_conv": 4,
    "mlp_widening": 6,
    "input_layers": 1,
    "output_layers": 5,
    "context": 32_768,
    "dtype": "bfloat16",
}

_DECLARED = (
    Row(
        "transformer",
        ByteTransformer,
        {"dim": 512, "num_layers": 7, "num_heads": 8, "context": 2048} | SMALL_DROPOUT,
        batch_bytes=32_768,
    ),
    # At an equal budget a smaller one sees more bytes, a larger learns more of each.
    Row(
        "transformer-10m",
        ByteTransformer,
        {"dim": 320, "num_layers": 8, "num_heads": 5, "context": 2048} | DROPOUT,
    ),
    Row(
        "transformer-20m",
        ByteTransformer,
        {"dim": 448, "num_layers": 8, "num_heads": 7, "context": 2048} | DROPOUT,
    ),
    Row(
        "transformer-38m",
        ByteTransformer,
        {"dim": 512, "context": 2048} | DEEP | DROPOUT,
    ),
    # Of 8 bytes one is predicted: up to there the fused kernel takes the attention.
    Row(
        "perceiver-ar",
        PerceiverAR,
        {"dim": 512, "context": 32_768, "targets": 4096} | DEEP | DROPOUT,
        batch_bytes=131_072,
    ),
    Row(
        "patch",
        PatchModel,
        {"patch": 8, "dim": 512, "num_layers": 6, "num_heads": 8, "context": 32_768}
        | {"local_dim": 384, "local_layers": 6, "local_heads": 6}
        | DROPOUT,
    ),
    Row("combined", Combined, COMBINED | DROPOUT),
    Row("own-step", Combined, COMBINED | DROPOUT | {"latent_window": 1}),
    # Without dropout, which these two do not have.
    Row("variant", Variant, COMBINED),
    Row("words", WordSteps, COMBINED),
    Row("tiny-transformer", ByteTransformer, {"dim": 32, "context": 256} | TINY),
    Row(
        "tiny-perceiver-ar",
        PerceiverAR,
        {"dim": 32, "context": 256, "targets": 64} | TINY,
    ),
    Row(
        "tiny-patch",
        PatchModel,
        {"patch": 8, "dim": 32, "context": 256}
        | {"local_dim": 32, "local_layers": 1, "local_heads": 2}
        | TINY,
    ),
    Row(
        "tiny-combined",
        Combined,
        {"bytes_per_step": 8, "num_latents": 2, "context": 1024}
        | {"latent_dim": 32, "latent_window": 8}
        | TINY,
    ),
    Row(
        "tiny-variant",
        Variant,
        {"bytes_per_step": 8, "num_latents": 2, "context": 1024}
        | {"latent_dim": 32, "latent_window": 8}
        | TINY,
    ),
    Row(
        "tiny-words",
        WordSteps,
        {"bytes_per_step": 8, "num_latents": 2, "context": 1024}
        | {"latent_dim": 32, "latent_window": 8}
        | TINY,
    ),
    Row(
        "tiny-own-step",
        Combined,
        {"bytes_per_step": 8, "num_latents": 2, "context": 1024}
        | {"latent_dim": 32, "latent_window": 1}
        | TINY,
    ),
)
ROWS = {
    row.name: replace(row, batch_bytes=4096) if row.name.startswith("tiny-") else row
    for row in _DECLARED
}


# A comma, but for those inside of brackets.
_BETWEEN_CHANGES = re.compile(r",(?![^(\[]*[)\]])")


def find_row(text: str, learning_rates: Sequence[float] | None = None) -> Row:
    """The row that a text names, with what it changes.

    Args:
        text: a name of `ROWS`, or such a name, a colon, and `argument=value` between
            commas: arguments of the model, `batch_bytes`, `micro_batches`,
            `weight_decay`, `devices` and `lr`.
        learning_rates: in place of those declared, where the text names none.

    Raises:
        ValueError: for an unknown row, or a change without a value.
    """
    name, _, changes = text.partition(":")
    if name not in ROWS:
        raise ValueError(f"`rows` must be among {', '.join(ROWS)}, got {name!r}.")
    row, arguments = replace(ROWS[name], name=text), dict(ROWS[name].arguments)
    if learning_rates:
        row = replace(row, learning_rates=tuple(learning_rates))
    own = {part.name for part in fields(Row)} - {"name", "kind", "arguments"}
    for change in filter(None, _BETWEEN_CHANGES.split(changes)):
        argument, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"`rows` must hold argument=value, got {change!r}.")
        if argument == "lr":
            row = replace(row, learning_rates=(float(value),))
        elif argument in own:
            row = replace(row, **{argument: _parsed(value)})
        else:
            arguments[argument] = _parsed(value)
    return replace(row, arguments=arguments)


def _parsed(value: str) -> object:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
