"""What the models of perceiver-io have in common: settings, and layers of attention."""

from typing import Any

from .places import TRANSPOSED, Form, Place, linear, norm
from .settings import checked


class Settings:
    """Values by name, of the kind that they have by default."""

    def __init__(self, found: dict[str, Any], defaults: dict[str, Any]):
        self.found, self.defaults = found, defaults

    def __getattr__(self, name: str) -> Any:
        default = self.defaults[name]
        return checked(name, self.found.get(name, default), default)

    def part(self, name: str, defaults: dict[str, Any]) -> "Settings":
        """Settings within these."""
        found = self.found.get(name, {})
        if not isinstance(found, dict):
            raise ValueError(f"`{name}` must hold settings, got {found!r}.")
        return Settings(found, defaults)


def attention_layer(
    theirs: str,
    ours: str,
    *,
    crosses: bool = True,
    layer: int | None = None,
    query_key: Form = TRANSPOSED,
    qkv_bias: bool = True,
    output_bias: bool = True,
    mlp_bias: bool = True,
    residual: bool = True,
) -> dict[str, Place]:
    """Of attention and its MLP, across or among themselves, with biases where they are.

    Args:
        layer: in a stack.
        query_key: how the maps of queries and keys are laid out.
        residual: what it attended is added to its input.
    """
    # What is added to its input is wrapped.
    within = f"{theirs}.0.module" if residual else f"{theirs}.0"
    norms = {"q_norm": "query_norm", "kv_norm": "input_norm"}
    places = {}
    for name, own in norms.items() if crosses else {"norm": "norm"}.items():
        places |= norm(f"{within}.{name}", f"{ours}.{own}", layer)
    heads = f"{ours}.heads"
    for name, own, form, bias in (
        ("q_proj", "query", query_key, qkv_bias),
        ("k_proj", "key", query_key, qkv_bias),
        ("v_proj", "value", TRANSPOSED, qkv_bias),
        ("o_proj", "output", TRANSPOSED, output_bias),
    ):
        names = f"{within}.attention.{name}", f"{heads}.{own}"
        places |= linear(*names, form, layer, bias=bias)
    mlp = f"{theirs}.1.module"
    places |= norm(f"{mlp}.0", f"{ours}.mlp_norm", layer)
    places |= linear(f"{mlp}.1", f"{ours}.mlp.up", layer=layer, bias=mlp_bias)
    return places | linear(f"{mlp}.3", f"{ours}.mlp.down", layer=layer, bias=mlp_bias)
