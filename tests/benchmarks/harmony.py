"""The streaming form on music: three voices under a melody that arrives step by step.

    python -m train prepare chorales --transpose --out data/chorales
    python -m tests.benchmarks.harmony --path data/chorales --out runs/harmony

The highest note of each step of a chorale is a stream that arrives, the three below it
are one that is predicted. Three models differ in when they see the melody: one step
late, as it arrives, or all of it beforehand too, as a context. Prints nats per step of
the three voices of the test part; writes what the second makes under the first melody
of it, and what stands there.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from perceiver_eqx import StreamModel, SymbolInput, SymbolOutput, sample_steps
from train.data.media import MediaConfig
from train.optim import muon
from train.samples import save


NOTES, VOICES, SILENCE = 128, 4, 1
MELODIES = "late", "arriving", "arriving, and all of it as a context"
SIZES = {"num_latents": 4, "latent_dim": 96, "num_layers": 3, "num_heads": 4}
SIZES |= {"latent_window": 32, "token_dim": 96, "dropout": 0.2}


class Melody(eqx.Module):
    """The notes of a whole melody as the tokens of a context."""

    notes: SymbolInput

    @property
    def dim(self) -> int:
        return self.notes.dim

    def __call__(self, melody):
        return self.notes(melody)[:, 0]


def read(path: Path) -> list[np.ndarray]:
    """Chorales, each of the notes of its steps, from the highest to the lowest."""
    lines = path.read_text().splitlines()
    texts = (json.loads(line).encode() for line in lines)
    return [np.frombuffer(text, np.uint8).reshape(-1, VOICES) for text in texts]


def filled(chorales: list[np.ndarray], length: int) -> dict[str, np.ndarray]:
    """A batch of one length, and how many steps of each count."""
    notes = np.full((len(chorales), length, VOICES), SILENCE, np.int32)
    for row, chorale in zip(notes, chorales, strict=True):
        row[: len(chorale)] = chorale
    counts = np.array([len(chorale) for chorale in chorales], np.int32)
    return {"melody": notes[..., :1], "below": notes[..., 1:], "count": counts}


def build(melody: str, key) -> StreamModel:
    keys = jr.split(key, 4)
    inputs = {
        "melody": SymbolInput(NOTES, 96, key=keys[0]),
        "below": SymbolInput(NOTES, 96, symbols_per_step=VOICES - 1, key=keys[1]),
    }
    outputs = {"below": SymbolOutput(NOTES, symbols_per_step=VOICES - 1)}
    if melody == "late":
        outputs["melody"] = SymbolOutput(NOTES)
    whole = Melody(SymbolInput(NOTES, 96, key=keys[2])) if "all" in melody else None
    return StreamModel(
        inputs=inputs, outputs=outputs, context=whole, **SIZES, key=keys[3]
    )


def nats(model: StreamModel, batch, key=None):
    """Of the voices below, summed over the steps that count, and the number of these;
    to be trained on, of all that is predicted."""
    keys = None if key is None else jr.split(key, len(batch["count"]))

    def one(melody, below, count, key):
        streams = {"melody": melody, "below": below}
        context = {}
        if model.context is not None:
            context = {"context": melody, "context_count": count}
        predictions = model(streams, **context, key=key)
        names = ["below"] if key is None else model.predicted
        of_steps = sum(
            model.outputs.adapters[name].log_prob(predictions[name], streams[name])
            for name in names
        )
        return -jnp.where(jnp.arange(len(melody)) < count, of_steps, 0).sum()

    rows = batch["melody"], batch["below"], batch["count"]
    return jax.vmap(one)(*rows, keys).sum(), batch["count"].sum()


def fit(model: StreamModel, chorales: list[np.ndarray], steps: int, seed: int):
    """The model after so many steps of 16 chorales each."""
    length = max(map(len, chorales))
    schedule = optax.warmup_cosine_decay_schedule(0, 4e-3, 20, steps, 2e-4)
    optim = muon(schedule, b1=0.9, b2=0.98, weight_decay=0.1, clip_norm=1.0)
    arrays, static = eqx.partition(model, eqx.is_array)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(arrays, state, batch, key):
        def loss(arrays):
            total, count = nats(eqx.combine(arrays, static), batch, key)
            return total / count

        slopes = jax.grad(loss)(arrays)
        updates, state = optim.update(slopes, state, arrays)
        return eqx.apply_updates(arrays, updates), state

    rng, state = np.random.default_rng(seed), optim.init(arrays)
    for number in range(steps):
        chosen = [chorales[at] for at in rng.integers(0, len(chorales), 16)]
        batch = filled(chosen, length)
        arrays, state = step(arrays, state, batch, jr.key(number))
    return eqx.combine(arrays, static)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--melodies", nargs="+", choices=MELODIES, default=MELODIES)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    train, test = (read(given.path / f"{part}.jsonl") for part in ("train", "test"))
    for melody in given.melodies:
        begun = time.perf_counter()
        model = fit(build(melody, jr.key(given.seed)), train, given.steps, given.seed)
        seconds = time.perf_counter() - begun
        held_out = filled(test, max(map(len, test)))
        total, count = eqx.filter_jit(nats)(model, held_out)
        result = {"melody": melody, "nats": float(total / count), "seconds": seconds}
        print(json.dumps(result), flush=True)
        if melody == "arriving" and given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            heard = jnp.asarray(test[0][:, :1], jnp.int32)
            made = sample_steps(model, len(heard), {"melody": heard}, key=jr.key(1))
            made = np.concatenate([heard, made["below"]], 1).astype(np.uint8)
            for name, notes in (("made", made), ("bach", test[0])):
                media = MediaConfig(steps_per_quarter=1, voices=VOICES)
                save(notes.tobytes(), given.out / f"{name}.mid", media)


if __name__ == "__main__":
    main()
