"""Layers over single bytes, which see some bytes back, across the borders of steps."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from ..checks import check_multiples, check_sizes
from ..positions import count_on
from ..processor import CausalProcessor, windows_in_turn
from ..state import Caches, State
from ..time_axis import TimeAxis, devices_in


def check_local_window(window: int | None | Sequence[int | None]) -> None:
    """Refuse what local layers can have no windows of.

    Raises:
        TypeError, ValueError: as `windows_in_turn` does, and for a window without end.
    """
    windows_in_turn("local_window", window, 1)
    if window is None or (isinstance(window, Sequence) and None in window):
        raise ValueError(
            f"`local_window` must be at least 1 in every layer, got {window!r}: local "
            "layers see some number of bytes back, latents all that is before them."
        )


def local_sizes(
    latent_dim: int,
    num_heads: int,
    local_dim: int | None = None,
    local_heads: int | None = None,
) -> tuple[int, int]:
    """Channels and heads of local layers beside latents of these sizes: of what is not
    given, three quarters of the heads, as wide as those of the latents.

    Raises:
        ValueError: for sizes below 1, or a width that is not a multiple of twice its
            number of heads.
    """
    check_sizes(latent_dim=latent_dim, num_heads=num_heads)
    check_multiples("twice `num_heads`", 2 * num_heads, latent_dim=latent_dim)
    if local_heads is None:
        local_heads = max(1, 3 * num_heads // 4)
    check_sizes(local_heads=local_heads)
    if local_dim is None:
        local_dim = local_heads * (latent_dim // num_heads)
    check_sizes(local_dim=local_dim)
    check_multiples("twice `local_heads`", 2 * local_heads, local_dim=local_dim)
    return local_dim, local_heads


class LocalState(State):
    """What local layers keep of the bytes they have seen.

    Attributes:
        seen: how many there were; goes back as `PerceiverState.steps` does.
        caches: what each layer keeps of those that its window reaches.
    """

    seen: Int[Array, ""]
    caches: Caches


class LocalLayers(eqx.Module):
    """Causal self-attention between the last few bytes: a processor whose step is one
    byte with one latent.

    Steps of a Perceiver have borders, words have not. These layers see across them, at
    a cost that is linear in the number of bytes.

    Source:
        Slagle, "SpaceByte" (2024), and Hwang et al., "H-Net" (2025), for byte-level
        layers before and after a coarser model.
    """

    processor: CausalProcessor

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_heads: int,
        *,
        window: int | Sequence[int],
        conv_kernel: int = 0,
        mlp_widening: int = 4,
        gated_mlp: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        remat: bool = False,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_layers, dim, num_heads, mlp_widening, gated_mlp, qk_norm, dropout,
                remat: as in `CausalProcessor`; without layers, only a norm is left.
            window: how many bytes a byte sees, itself included, at least 1. Of
                several, which the layers take in turn.
            conv_kernel: how many bytes the convolution before each attention sees, the
                byte itself included; 0 for none.
        """
        self.processor = CausalProcessor(
            num_layers,
            dim,
            num_heads,
            window=window,
            conv_kernel=conv_kernel,
            remat=remat,
            mlp_widening=mlp_widening,
            gated_mlp=gated_mlp,
            qk_norm=qk_norm,
            dropout=dropout,
            key=key,
        )

    def init_state(self, dtype: DTypeLike, *, keep: bool = True) -> LocalState:
        """The state before the first byte.

        Args:
            dtype: of what is to come.
            keep: make room for past bytes; without it, for a sequence taken at once.
        """
        caches = self.processor.empty_caches(1, dtype, None if keep else 0)
        return LocalState(jnp.zeros((), jnp.int32), caches)

    def __call__(
        self,
        x: Float[Array, "*bytes dim"],
        state: LocalState,
        *,
        time: TimeAxis | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*bytes dim"], LocalState]:
        """The next bytes, in order over the leading axes, and the state after them;
        those of this device, if they lie over several."""
        rows = x.reshape(-1, 1, x.shape[-1])
        y, caches = self.processor(rows, state.caches, state.seen, time=time, key=key)
        count = count_on(state.seen, rows.shape[0] * devices_in(time))
        return y.reshape(x.shape), LocalState(count, caches)
