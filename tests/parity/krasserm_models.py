"""Run by a Python that has perceiver-io 0.11: saves small models of it into a folder,
and what they give.

    python krasserm_models.py NUMBERS FOLDER
"""

import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from perceiver.model.audio.symbolic import huggingface as audio
from perceiver.model.core.config import ClassificationDecoderConfig, PerceiverIOConfig
from perceiver.model.text.classifier import huggingface as text_classifier
from perceiver.model.text.clm import huggingface as clm
from perceiver.model.text.common.backend import TextEncoderConfig
from perceiver.model.text.mlm import backend as mlm_backend
from perceiver.model.text.mlm import huggingface as mlm
from perceiver.model.vision.image_classifier import backend as image_backend
from perceiver.model.vision.image_classifier import huggingface as image


found = importlib.util.spec_from_file_location("numbers_", sys.argv[1])
numbers = importlib.util.module_from_spec(found)
found.loader.exec_module(numbers)
FOLDER = Path(sys.argv[2])

AR = {"vocab_size": 30, "max_seq_len": 20, "max_latents": 8, "num_channels": 16}
AR |= {"num_heads": 2, "num_self_attention_layers": 3, "cross_attention_dropout": 0.0}
CAUSAL = {
    "absolute": {},
    "relative": {"abs_pos_emb": False, "output_norm": True},
    "all-rotary": {"num_self_attention_rotary_layers": -1, "output_bias": False},
    "no-rotary": {"num_self_attention_rotary_layers": 0, "output_norm": True},
    "wide": {"self_attention_widening_factor": 2, "cross_attention_widening_factor": 3},
}
ENCODER = {"num_cross_attention_heads": 2, "num_self_attention_heads": 2}
ENCODER |= {"num_self_attention_layers_per_block": 2}
TEXT = ENCODER | {"vocab_size": 30, "max_seq_len": 12, "num_input_channels": 16}
REPEATED = {"num_cross_attention_layers": 2, "num_self_attention_blocks": 3}
UNSHARED = REPEATED | {"first_self_attention_block_shared": False}
SHARED = REPEATED | {"first_cross_attention_layer_shared": True}
WIDTHS = {"num_cross_attention_qk_channels": 8, "num_cross_attention_v_channels": 12}
WIDTHS |= {"num_self_attention_qk_channels": 4, "num_self_attention_v_channels": 8}
DECODER = {"num_cross_attention_heads": 2}
SMALL = {"num_latents": 5, "num_latent_channels": 16}


def numbered(model):
    """The model with the parameters that are drawn from their names."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = numbers.tensor_of(name, tuple(parameter.shape))
            parameter.copy_(torch.tensor(drawn))
    return model.eval()


def saved(name, model, **arrays):
    model.save_pretrained(FOLDER / name)
    np.savez(FOLDER / name / "expected.npz", **arrays)


def causal(name, kind, backend):
    model = numbered(kind(kind.config_class(backend)))
    rng = np.random.default_rng(0)
    symbols, shorter = rng.integers(0, 30, 20), rng.integers(0, 30, 9)
    padding = 5
    mask = torch.tensor(np.arange(20) >= padding).long()[None]
    with torch.no_grad():
        given = torch.tensor(symbols)[None]
        logits = model(given, prefix_len=12).logits[0]
        padded = model(given, prefix_len=12, attention_mask=mask).logits[0]
        all_latents = model(torch.tensor(shorter)[None], prefix_len=1).logits[0]
    saved(
        name,
        model,
        symbols=symbols,
        shorter=shorter,
        padding=padding,
        logits=logits.numpy(),
        padded=padded.numpy(),
        all_latents=all_latents.numpy(),
    )
    return model


for name, changes in CAUSAL.items():
    backend = clm.CausalLanguageModelConfig(**AR, **changes)
    last = causal(f"causal-{name}", clm.PerceiverCausalLanguageModel, backend)
backend = audio.SymbolicAudioModelConfig(**AR)
causal("audio", audio.PerceiverSymbolicAudioModel, backend)

# As Lightning writes a checkpoint of the last of them.
state = {f"model.{n}": x for n, x in last.backend_model.state_dict().items()}
checkpoint = {
    "epoch": 3,
    "pytorch-lightning_version": "2.0.0",
    "state_dict": state,
    "hyper_parameters": asdict(last.config.backend_config),
}
torch.save(checkpoint, FOLDER / "causal-wide" / "last.ckpt")


def text_example():
    rng = np.random.default_rng(1)
    return rng.integers(0, 30, 10), np.arange(10) < 8


def of_text(name, model):
    symbols, mask = text_example()
    with torch.no_grad():
        given = {"input_ids": torch.tensor(symbols)[None]}
        given["attention_mask"] = torch.tensor(mask).long()[None]
        logits = numbered(model)(**given).logits[0]
    saved(name, model, symbols=symbols, mask=mask, logits=logits.numpy())


for name, encoder, decoder in (
    ("tied", {}, {}),
    ("own", UNSHARED, {"num_output_query_channels": 8}),
    ("widths", SHARED | WIDTHS, {"cross_attention_residual": False}),
):
    backend = PerceiverIOConfig(
        encoder=TextEncoderConfig(**TEXT, **encoder),
        decoder=mlm_backend.TextDecoderConfig(
            **DECODER, vocab_size=30, max_seq_len=12, **decoder
        ),
        **SMALL,
    )
    config = mlm.PerceiverMaskedLanguageModelConfig(backend)
    of_text(f"masked-{name}", mlm.PerceiverMaskedLanguageModel(config))

CLASSES = DECODER | {"num_output_query_channels": 8, "num_classes": 5}
backend = PerceiverIOConfig(
    encoder=TextEncoderConfig(**TEXT, **REPEATED),
    decoder=ClassificationDecoderConfig(**CLASSES),
    **SMALL,
)
config = text_classifier.PerceiverTextClassifierConfig(backend)
of_text("text", text_classifier.PerceiverTextClassifier(config))

for name, changes in (("one", {}), ("repeated", UNSHARED)):
    backend = image_backend.ImageClassifierConfig(
        encoder=image_backend.ImageEncoderConfig(
            **(ENCODER | {"num_cross_attention_heads": 1}),
            image_shape=(6, 7, 1),
            num_frequency_bands=3,
            **changes,
        ),
        decoder=ClassificationDecoderConfig(**CLASSES),
        **SMALL,
    )
    config = image.PerceiverImageClassifierConfig(backend)
    model = numbered(image.PerceiverImageClassifier(config))
    picture = np.random.default_rng(2).standard_normal((6, 7, 1)).astype(np.float32)
    with torch.no_grad():
        logits = model(torch.tensor(picture)[None]).logits[0]
    saved(f"image-{name}", model, picture=picture, logits=logits.numpy())
