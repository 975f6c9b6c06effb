# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The parents: an imported model fills a masked sentence
#
# `pretrained.load` reads the folder of a published Perceiver without running any code
# in it. If you have the real weights (`deepmind/language-perceiver`, as transformers
# saves it), set `FOLDER` in the environment to their folder. Without them this notebook
# writes a folder of the same layout, small and with random numbers: then the words are
# nonsense and the code is the same.

# %%
import json
import os
import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from perceiver_eqx import pretrained
from perceiver_eqx.adapters.text import MASK, symbols_text, text_symbols
from perceiver_eqx.pretrained import huggingface


# Tiny shapes that run once: compiling them is nearly all of the time. (Not for work.)
jax.config.update("jax_disable_most_optimizations", True)

config = {
    "model_type": "perceiver",
    "architectures": ["PerceiverForMaskedLM"],
    "num_latents": 16,
    "d_latents": 64,
    "d_model": 48,
    "num_self_attends_per_block": 2,
    "max_position_embeddings": 128,
}
folder = os.environ.get("FOLDER")
if folder is None:
    folder = tempfile.mkdtemp()
    random = huggingface.build(huggingface.Config.read(config), key=jr.key(0))
    huggingface.save(Path(folder), random, config)
sorted(path.name for path in Path(folder).iterdir())

# %% [markdown]
# ## Load
#
# The names, shapes and dtypes of all tensors are compared with the model that
# `config.json` describes before one of them is read.
#
# **Claim:** a model that is loaded, written out and loaded again is the same model.

# %%
model = pretrained.load(folder)
again = tempfile.mkdtemp()
config = json.loads(Path(folder, "config.json").read_text())
huggingface.save(Path(again), model, config)
assert eqx.tree_equal(pretrained.load(again), model)
size = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
print(f"{type(model).__name__}, {size:,} parameters")

# %% [markdown]
# ## Fill in
#
# Text is bytes behind six special symbols. Those of a word are masked, and the logits
# at their places say what the model puts there.

# %%
sentence = b"This is an incomplete sentence where some words are missing."
symbols = text_symbols(sentence)
start = 1 + sentence.index(b" missing")
masked = symbols.copy()
masked[start : start + len(b" missing.")] = MASK
logits = eqx.filter_jit(model)(jnp.asarray(masked))
filled = np.where(masked == MASK, np.asarray(logits).argmax(-1), masked)
print(symbols_text(filled))

# %% [markdown]
# **Claim:** symbols that are padding do not matter, whatever they are.

# %%
padded = np.concatenate([masked, np.zeros(20, masked.dtype)])
noise = padded.copy()
noise[len(masked) :] = 77
mask = jnp.arange(len(padded)) < len(masked)
run = eqx.filter_jit(lambda symbols: model(symbols, mask=mask))
one, other = (run(jnp.asarray(x))[: len(masked)] for x in (padded, noise))
assert np.array_equal(one, other)
np.testing.assert_allclose(one, logits, atol=1e-4)

# %% [markdown]
# ## What a hostile file can do
#
# Nothing: links, pickles that ask for functions, and tensors of other shapes are
# refused with a message that names them. The last of these, for instance:

# %%
Path(again, "config.json").write_text(json.dumps(config | {"num_latents": 17}))
try:
    pretrained.load(again)
except ValueError as error:
    print(str(error).replace(again, "FOLDER"))
else:
    raise AssertionError("a model of other sizes was loaded")
