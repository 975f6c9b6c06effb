"""Perceiver IO for the tasks it was published with: adapters in, queries, adapters out.

Each is one function of one example; `jax.vmap` for batches. They are what
`pretrained.load` gives.
"""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray

from .adapters.grid import FourierPositions, GridInput
from .adapters.modalities import Padding, in_a_row, parted
from .adapters.text import TextInput
from .checks import check_probabilities, check_shape
from .decoder import in_pieces
from .draws import normal, split_key
from .layers import Linear
from .parents import PerceiverIO


def _check_width(what: str, has: int, needs: int | None, of: str = "inputs") -> None:
    if has != needs:
        raise ValueError(
            f"`perceiver` must be made for {of} of {has} channels, as {what} have, it "
            f"is for {needs}."
        )


class MaskedLM(eqx.Module):
    """Symbols with some of them masked to logits of all of them.

    Source:
        Jaegle et al., "Perceiver IO" (2021), §4.1.
    """

    inputs: TextInput
    perceiver: PerceiverIO
    queries: Float[Array, "max_symbols query_dim"]
    bias: Float[Array, " num_symbols"] | None

    def __init__(self, inputs: TextInput, perceiver: PerceiverIO, *, key: PRNGKeyArray):
        """
        Args:
            inputs: of the symbols.
            perceiver: with an output for each symbol; or without an output map and with
                queries as wide as the tokens, whose table then gives the logits.
        """
        num_symbols, tied = (
            inputs.embedding.table.shape[0],
            perceiver.output_dim is None,
        )
        _check_width("`inputs`", inputs.dim, perceiver.encoder.input_dim)
        if tied:
            _check_width("`inputs`", inputs.dim, perceiver.query_dim, "queries")
        else:
            _check_width("symbols", num_symbols, perceiver.output_dim, "outputs")
        self.inputs, self.perceiver = inputs, perceiver
        max_symbols = inputs.positions.shape[0]
        self.queries = normal(key, (max_symbols, perceiver.query_dim), 0.02)
        self.bias = jnp.zeros(num_symbols) if tied else None

    def __call__(
        self,
        symbols: Integer[Array, " n"],
        *,
        mask: Bool[Array, " n"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "n num_symbols"]:
        """
        Args:
            symbols: as `text_symbols` gives them, `MASK` where one is to be guessed.
            mask: which of them are there, and not padding; `None` for all.
        """
        tokens = self.inputs(symbols)
        queries = self.queries[: symbols.shape[0]]
        x = self.perceiver(tokens, queries, mask=mask, key=key)
        return x if self.bias is None else self.inputs.logits(x, self.bias)


class Classifier(eqx.Module):
    """One input, of any kind, to the logits of its classes."""

    inputs: TextInput | GridInput
    perceiver: PerceiverIO
    query: Float[Array, "1 query_dim"]

    def __init__(
        self,
        inputs: TextInput | GridInput,
        perceiver: PerceiverIO,
        *,
        key: PRNGKeyArray,
    ):
        """
        Args:
            inputs: an adapter, or one like these: a function with a `dim`.
            perceiver: with as many output channels as there are classes.
        """
        if perceiver.output_dim is None:
            raise ValueError("`perceiver` must have an `output_dim`, one a class.")
        _check_width("`inputs`", inputs.dim, perceiver.encoder.input_dim)
        self.inputs, self.perceiver = inputs, perceiver
        self.query = normal(key, (1, perceiver.query_dim), 0.02)

    def __call__(
        self,
        inputs: Array,
        *,
        mask: Bool[Array, " tokens"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """
        Args:
            inputs: what the adapter takes.
            mask: which of its tokens are there; `None` for all.
        """
        tokens = self.inputs(inputs)
        return self.perceiver(tokens, self.query, mask=mask, key=key)[0]


class OpticalFlow(eqx.Module):
    """Two frames to the way, in pixels, that each pixel of the first one goes; the
    inputs are the queries.

    Source:
        Jaegle et al., "Perceiver IO" (2021), §4.2.
    """

    inputs: GridInput
    perceiver: PerceiverIO
    rescale: float = eqx.field(static=True)

    def __init__(
        self, inputs: GridInput, perceiver: PerceiverIO, *, rescale: float = 100.0
    ):
        """
        Args:
            inputs: of `neighbourhoods` of two frames, with a block of (2, 1, 1).
            perceiver: with queries as wide as its inputs, and two output channels.
            rescale: what the outputs are divided by.
        """
        _check_width("`inputs`", inputs.dim, perceiver.encoder.input_dim)
        _check_width("`inputs`", inputs.dim, perceiver.query_dim, "queries")
        _check_width("flow", 2, perceiver.output_dim, "outputs")
        self.inputs, self.perceiver, self.rescale = inputs, perceiver, rescale

    def __call__(
        self,
        frames: Float[Array, "2 height width channels"],
        *,
        piece: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "height width 2"]:
        """
        Args:
            frames: `neighbourhoods` of the two.
            piece: how many pixels are decoded at a time; `None` for all.
        """
        tokens = self.inputs(frames)
        encoder_key, decoder_key = split_key(key)
        latents = self.perceiver.encoder(tokens, key=encoder_key)

        def read(queries: Array) -> Array:
            return self.perceiver.decode(latents, queries, key=decoder_key)

        flow = read(tokens) if piece is None else in_pieces(read, tokens, piece)
        return flow.reshape(*frames.shape[1:3], 2) / self.rescale


class MultimodalAutoencoder(eqx.Module):
    """Video, sound and a label to the same again, or to as much of it as is asked for.
    With the label masked, as always, what comes out for it is a classification.

    Source:
        Jaegle et al., "Perceiver IO" (2021), §4.3.
    """

    video: GridInput
    audio: GridInput
    padding: Padding
    masks: dict[str, Float[Array, " input_dim"]]
    perceiver: PerceiverIO
    label_query: Float[Array, "1 label_dim"]
    query_padding: Padding
    heads: dict[str, Linear]
    video_shape: tuple[int, ...] = eqx.field(static=True)
    audio_shape: tuple[int, ...] = eqx.field(static=True)
    mask_share: tuple[tuple[str, float], ...] = eqx.field(static=True)

    def __init__(
        self,
        video: GridInput,
        audio: GridInput,
        *,
        dims: Mapping[str, int],
        query_dims: Mapping[str, int],
        head_dims: Mapping[str, int],
        min_padding: tuple[int, int],
        video_shape: tuple[int, ...],
        audio_shape: tuple[int, ...],
        perceiver: Callable[[int, int, PRNGKeyArray], PerceiverIO],
        mask_share: Mapping[str, float] | None = None,
        key: PRNGKeyArray,
    ):
        """
        Args:
            video, audio: adapters with Fourier positions.
            dims, query_dims, head_dims: channels of the tokens, the output queries and
                the outputs of `"image"`, `"audio"` and `"label"`.
            min_padding: as in `Padding`, of the tokens and of the queries.
            video_shape: frames, height and width of the output.
            audio_shape: patches of samples of the output.
            perceiver: makes it, of the channels of its inputs and of its queries, with
                some output channels that the heads read.
            mask_share: of `"image"` and `"audio"`, how many tokens, in [0, 1), are
                masked on average where a call is given a `key`; `None` for none.
        """
        check_probabilities(**(mask_share or {}))
        keys = split_key(key, 6)
        names = sorted(head_dims)
        self.video, self.audio = video, audio
        self.padding = Padding(dims, min_padding=min_padding[0], key=keys[0])
        self.query_padding = Padding(
            query_dims, min_padding=min_padding[1], key=keys[1]
        )
        self.masks = {
            name: normal(key, (self.padding.dim,), 0.02)
            for name, key in zip(names, split_key(keys[2], 3), strict=True)
        }
        self.perceiver = perceiver(self.padding.dim, self.query_padding.dim, keys[3])
        self.label_query = normal(keys[4], (1, query_dims["label"]), 0.02)
        output = self.perceiver.decoder.output
        assert output is not None, "a perceiver with an output map"
        width = output.weight.shape[-1]
        self.heads = {
            name: Linear(width, head_dims[name], key=key)
            for name, key in zip(names, split_key(keys[5], 3), strict=True)
        }
        self.video_shape, self.audio_shape = tuple(video_shape), tuple(audio_shape)
        self.mask_share = tuple(sorted((mask_share or {}).items()))

    def __call__(
        self,
        video: Float[Array, "frames height width channels"],
        audio: Float[Array, "samples 1"],
        *,
        video_places: Int[Array, " some_pixels"] | None = None,
        audio_places: Int[Array, " some_patches"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, Array]:
        """
        Args:
            video, audio: whole, as the adapters take them.
            video_places, audio_places: numbers of the pixels and of the patches of
                samples to decode, in the flattened grids; `None` for no one.

        Returns:
            `label`, its logits; and `video` and `audio`, for the places asked for:
            colours of pixels, samples one after the other.
        """
        latents_key, decoder_key = split_key(key)
        latents = self.latents(video, audio, key=latents_key)
        return self.decode(latents, video_places, audio_places, key=decoder_key)

    def latents(
        self, video: Array, audio: Array, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "latents latent_dim"]:
        """The latents, to decode any number of pieces of the outputs from."""
        num_labels = self.heads["label"].weight.shape[-1]
        tokens = {
            "image": self.video(video),
            "audio": self.audio(audio),
            "label": jnp.zeros((1, num_labels), video.dtype),
        }
        tokens = self.padding(tokens)
        tokens["label"] = self.masks["label"].astype(video.dtype)[None]
        encoder_key, *mask_keys = split_key(key, 1 + len(self.mask_share))
        for (name, share), mask_key in zip(self.mask_share, mask_keys, strict=True):
            if mask_key is not None:
                hidden = jr.bernoulli(mask_key, share, (tokens[name].shape[0], 1))
                tokens[name] = jnp.where(hidden, self.masks[name], tokens[name])
        return self.perceiver.encoder(in_a_row(tokens), key=encoder_key)

    def decode(
        self,
        latents: Float[Array, "latents latent_dim"],
        video_places: Int[Array, " some_pixels"] | None = None,
        audio_places: Int[Array, " some_patches"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, Array]:
        """What places read out of the latents; as `__call__` returns it."""
        check_shape("latents", latents, "latents latent_dim")
        none = jnp.zeros((0,), jnp.int32)
        asked = {
            "image": none if video_places is None else video_places,
            "audio": none if audio_places is None else audio_places,
        }
        positions = {"image": self.video.positions, "audio": self.audio.positions}
        shapes = {"image": self.video_shape, "audio": self.audio_shape}
        queries = {"label": self.label_query}
        for name, places in asked.items():
            found = positions[name]
            assert isinstance(found, FourierPositions)
            queries[name] = found.at(places, shapes[name])
        padded = self.query_padding(queries)
        outputs = self.perceiver.decode(latents, in_a_row(padded), key=key)
        parts = parted(outputs, {name: x.shape[0] for name, x in queries.items()})
        read = {name: self.heads[name](x) for name, x in parts.items()}
        return {
            "label": read["label"][0],
            "video": read["image"],
            "audio": read["audio"].reshape(-1),
        }
