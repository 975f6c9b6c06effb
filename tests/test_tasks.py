"""The tasks of Perceiver IO: parts that do not fit are refused when built."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from perceiver_eqx import PerceiverIO
from perceiver_eqx.adapters.grid import FourierPositions, GridInput, neighbourhoods
from perceiver_eqx.adapters.text import TextInput
from perceiver_eqx.tasks import (
    Classifier,
    MaskedLM,
    MultimodalAutoencoder,
    OpticalFlow,
)
from tests.helpers import normals
from tests.models import drawn


SIZES = {"num_latents": 4, "latent_dim": 8, "num_layers": 1, "num_heads": 2}
TEXT = drawn(TextInput, max_symbols=9, dim=6, num_symbols=11)
IMAGE = GridInput(3, FourierPositions(2, (4, 4)))
FLOW = GridInput(27, FourierPositions(2, (4, 5)), block=(2, 1, 1))


def perceiver(input_dim, query_dim, output_dim, **options) -> PerceiverIO:
    sizes = {"input_dim": input_dim, "query_dim": query_dim, "output_dim": output_dim}
    return drawn(PerceiverIO, **sizes, **SIZES, query_heads=1, **options)


def test_a_small_classifier_and_a_dense_prediction_are_built_of_parts():
    image = jnp.asarray(normals(0, 4, 4, 3))
    classifier = Classifier(IMAGE, perceiver(IMAGE.dim, 8, 5), key=jr.key(0))
    assert classifier(image).shape == (5,)
    positions = IMAGE.positions((4, 4))
    model = perceiver(IMAGE.dim, positions.shape[-1], 2)
    assert model(IMAGE(image), positions).shape == (16, 2)


def test_flow_in_pieces_is_the_same_and_takes_dropout():
    frames = neighbourhoods(jnp.asarray(normals(1, 2, 4, 5, 3)))
    flow = OpticalFlow(FLOW, perceiver(FLOW.dim, FLOW.dim, 2, dropout=0.5))
    whole = flow(frames)
    assert whole.shape == (4, 5, 2)
    np.testing.assert_allclose(flow(frames, piece=7), whole, rtol=1e-4, atol=1e-6)
    one, other = (flow(frames, key=jr.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other)


def test_a_share_of_the_tokens_is_masked_in_training():
    video = GridInput(3, FourierPositions(2, (2, 4, 4)), block=(1, 2, 2))
    audio = GridInput(1, FourierPositions(2, (8,)), block=(4,))
    model = MultimodalAutoencoder(
        video,
        audio,
        dims={"audio": audio.dim, "image": video.dim, "label": 5},
        query_dims={"audio": 5, "image": 15, "label": 4},
        head_dims={"audio": 4, "image": 3, "label": 5},
        min_padding=(2, 2),
        video_shape=(2, 4, 4),
        audio_shape=(8,),
        perceiver=lambda inputs, queries, key: perceiver(inputs, queries, 6),
        mask_share={"image": 0.99},
        key=jr.key(0),
    )
    frames, samples = (
        jnp.asarray(normals(0, 2, 4, 4, 3)),
        jnp.asarray(normals(1, 32, 1)),
    )
    run = lambda frames, key=None: model.latents(frames, samples, key=key)  # noqa: E731
    # Of eight tokens of the frames hardly one is left.
    assert np.array_equal(run(frames, jr.key(3)), run(-frames, jr.key(3)))
    assert not np.array_equal(run(frames), run(-frames))
    found = model(
        frames, samples, video_places=jnp.arange(3), audio_places=jnp.arange(2)
    )
    assert {name: x.shape for name, x in found.items()} == {
        "label": (5,),
        "video": (3, 3),
        "audio": (8,),
    }


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (
            lambda: MaskedLM(TEXT, perceiver(6, 6, 7), key=jr.key(0)),
            "for outputs of 11 channels, as symbols have, it is for 7",
        ),
        (
            lambda: MaskedLM(TEXT, perceiver(6, 8, None), key=jr.key(0)),
            "for queries of 6 channels, as `inputs` have, it is for 8",
        ),
        (
            lambda: Classifier(IMAGE, perceiver(6, 8, 5), key=jr.key(0)),
            "for inputs of 13 channels, as `inputs` have, it is for 6",
        ),
        (
            lambda: Classifier(TEXT, perceiver(6, 8, None), key=jr.key(0)),
            "must have an `output_dim`",
        ),
        (
            lambda: OpticalFlow(FLOW, perceiver(FLOW.dim, FLOW.dim, 3)),
            "for outputs of 2 channels, as flow have, it is for 3",
        ),
    ],
    ids=["outputs", "queries", "inputs", "classes", "flow"],
)
def test_parts_that_do_not_fit_are_refused(build, told):
    with pytest.raises(ValueError, match=told):
        build()
