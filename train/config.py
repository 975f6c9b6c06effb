"""What a run is made of: frozen dataclasses, checked before anything compiles."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from perceiver_eqx.adapters.local import check_local_window, local_sizes
from perceiver_eqx.adapters.ngrams import check_ngrams
from perceiver_eqx.mesh import parse_mesh
from perceiver_eqx.processor import windows_in_turn

from .data.media import MediaConfig


@dataclass(frozen=True)
class ModelConfig:
    """The model: arguments of `perceiver_eqx.ByteLM`."""

    bytes_per_step: int = 8
    """Bytes that make a step."""
    num_latents: int = 1
    """Latents, replicated at every step."""
    latent_dim: int = 128
    """Channels of a latent, a multiple of twice num-heads."""
    num_layers: int = 2
    """Self-attention layers between the latents."""
    num_heads: int = 4
    """Heads of every attention over the inputs and between latents."""
    latent_window: int | None | tuple[int | None, ...] = 64
    """How many steps a latent sees, its own included; None for all. Of several, which
    the layers take in turn."""
    token_dim: int | None = None
    """Channels of a byte on its way into the Perceiver; None for
    latent-dim / bytes-per-step, but at least 32."""
    local_dim: int | None = None
    """Channels of the local layers; None for as many a head as latents have."""
    local_heads: int | None = 2
    """Heads of the local layers; None for three quarters of num-heads."""
    local_window: int | tuple[int, ...] = 32
    """How many bytes a byte sees in a local layer, itself included. Of several, which
    the layers take in turn."""
    local_conv: int = 0
    """How many bytes a causal convolution before the attention of each local layer
    sees, the byte itself included; 0 for none, as n-grams know them already."""
    input_layers: int = 1
    """Local layers before the Perceiver."""
    output_layers: int = 2
    """Local layers after the Perceiver."""
    ngrams: tuple[int, ...] = (3, 4, 5)
    """Of how many of the last bytes together to look up a vector."""
    ngram_rows: int = 8192
    """Rows of each table of such vectors, a power of 2."""
    use_context: bool = False
    """Take a context, which every step sees: the sources of pairs."""
    ask_context: bool = True
    """Let latents ask the context, by content and by place, and not only pool it."""
    context_patch: int = 1
    """Bytes of the context that make a token."""
    context_layers: int = 0
    """Layers by which tokens of the context see each other, before and behind."""
    context_block: int = 512
    """How many tokens in a row do so."""
    recency: bool = True
    """Learn how fast inputs lose weight with age."""
    own_step: bool = True
    """Add a projection of a step's own bytes to its latents."""
    readout: Literal["queries", "places"] = "places"
    """How bytes read the latents: output queries, or a linear map for each place."""
    mlp_widening: int = 4
    """Hidden channels of the MLPs over their width."""
    gated_mlp: bool = True
    """Gate the MLPs."""
    qk_norm: bool = True
    """Norm the queries and keys of self-attention."""
    dropout: float = 0.0
    """Probability of leaving out a residual channel."""
    attention_dropout: float = 0.0
    """Probability of leaving out a weight between latents."""
    token_dropout: float = 0.0
    """Probability of leaving out an input byte of the cross-attention."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in; parameters are float32."""

    def __post_init__(self):
        _at_least(1, self, "bytes_per_step", "num_latents", "latent_dim", "num_layers")
        _at_least(1, self, "num_heads", "mlp_widening")
        _at_least(1, self, "context_patch", "context_block")
        _at_least(0, self, "local_conv", "input_layers", "output_layers")
        _at_least(0, self, "context_layers")
        if self.ngrams:
            check_ngrams(self.ngrams, self.ngram_rows)
        windows_in_turn("latent_window", self.latent_window, 1)
        check_local_window(self.local_window)
        if self.token_dim is not None:
            _at_least(1, self, "token_dim")
        local_sizes(self.latent_dim, self.num_heads, self.local_dim, self.local_heads)
        for name in ("dropout", "attention_dropout", "token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must lie in [0, 1), got {getattr(self, name)}."
                )


@dataclass(frozen=True)
class DataConfig:
    """The data: any file or folder of files, as bytes; pairs; sequences, each by
    itself; or a task that is made up."""

    kind: Literal["bytes", "sequences", "pairs", "copy", "needle"] = "bytes"
    """Bytes to go on with; sequences, which begin anew: the files of a folder, the
    lines of a file, or the texts of a .jsonl; pairs of a source and the target to make
    of it: a .tsv with a tab between them, a .jsonl with the texts source and target, or
    with target-path two files of as many lines, or two folders; random bytes to copy
    backwards; or lines to be found in the bytes of a file or folder."""
    path: Path | None = None
    """A file or a folder; None for the Python standard library's own sources."""
    target_path: Path | None = None
    """The targets of pairs, where path has the sources alone: a file of as many lines,
    or a folder with files of the same names but for their suffixes."""
    decode: bool = False
    """Read sound, pictures, MIDI and arrays as samples, pixels, notes and numbers, and
    not as the bytes of their files."""
    media: MediaConfig = field(default_factory=MediaConfig)
    ends: bool = True
    """End sequences and targets with a byte 0, so that a model knows where; off for
    those that are all of one length, and may hold it."""
    window_bytes: int = 1024
    """Length of a training sequence, a multiple of bytes-per-step; room for a target
    and its end."""
    context_bytes: int = 1024
    """Room for the source of a pair; length of a context of copy and needle, where
    window-bytes is as much, and 16 for every line to find."""
    shortest_bytes: int | None = None
    """Contexts of copy and needle begin 8, 64, ... times shorter, but no shorter than
    this, and more to a batch; None for the full length from the start."""
    validation_fraction: float = 0.05
    """Share of the content that is held out."""
    validation_path: Path | None = None
    """Sequences or pairs, as at path, to hold out in the place of a share."""
    validation_bytes: int | None = 262_144
    """How much of the held-out content an evaluation reads, at most; None for all."""

    def __post_init__(self):
        _at_least(1, self, "window_bytes", "context_bytes")
        if self.shortest_bytes is not None:
            _at_least(1, self, "shortest_bytes")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "`validation_fraction` must lie in (0, 1), got "
                f"{self.validation_fraction}."
            )
        if self.target_path is not None and self.kind != "pairs":
            raise ValueError(
                "`target_path` must be None but for the kind 'pairs', got "
                f"{str(self.target_path)!r} for {self.kind!r}."
            )
        if self.validation_path is not None and (
            self.kind not in ("sequences", "pairs") or self.target_path is not None
        ):
            raise ValueError(
                "`validation_path` must be None but for sequences, or pairs of one "
                f"file, got {str(self.validation_path)!r} for {self.kind!r}."
            )
        if self.validation_bytes is None:
            return
        if self.validation_bytes < self.window_bytes:
            raise ValueError(
                f"`validation_bytes` must hold a window of {self.window_bytes} bytes, "
                f"got {self.validation_bytes}."
            )


@dataclass(frozen=True)
class OptimConfig:
    """Muon or AdamW, with warm-up, cosine decay and clipping."""

    name: Literal["muon", "adamw"] = "muon"
    """Muon for the hidden matrices and AdamW for all else, or AdamW alone."""
    learning_rate: float = 8e-3
    """The highest rate, reached after the warm-up."""
    final_share: float = 0.1
    """The last rate, as a share of the highest."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 0.1
    """Decay of the matrices; biases, norms and tables have none."""
    b1: float = 0.9
    """Decay of AdamW's mean of gradients."""
    b2: float = 0.98
    """Decay of AdamW's mean of squared gradients."""
    clip_norm: float = 1.0
    """Largest global norm of a gradient."""
    spike_factor: float | None = None
    """Skip steps whose gradient norm is more than so many times the mean of those
    before; None to skip those alone that are not finite."""

    def __post_init__(self):
        if self.spike_factor is not None and not self.spike_factor > 1:
            raise ValueError(
                f"`spike_factor` must be above 1, got {self.spike_factor}."
            )
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"`{name}` must be above 0, got {getattr(self, name)}."
                )
        _at_least(0, self, "warmup_steps", "weight_decay")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must lie in [0, 1), got {getattr(self, name)}."
                )
        if not 0 <= self.final_share <= 1:
            raise ValueError(
                f"`final_share` must lie in [0, 1], got {self.final_share}."
            )


@dataclass(frozen=True)
class SampleConfig:
    """What is generated on the way and at the end."""

    prompt: str = ""
    """Text to go on from, of bytes alone; sequences and targets begin with nothing."""
    num_bytes: int = 256
    """How many bytes to add."""
    temperature: float = 0.9
    """Divides the logits; 0 takes the most likely byte."""
    top_k: int | None = None
    """Keep this many of the most likely bytes."""
    top_p: float | None = None
    """Keep the most likely bytes up to this probability."""
    suffix: Literal["", ".wav", ".png", ".mid"] = ""
    """Save samples as files of this kind too, in the folder of the run, as sound, as
    pictures or as music, as data.media says what bytes are."""

    def __post_init__(self):
        _at_least(1, self, "num_bytes")
        _at_least(0, self, "temperature")
        if self.top_k is not None and not 1 <= self.top_k <= 256:
            raise ValueError(f"`top_k` must be between 1 and 256, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must lie in (0, 1], got {self.top_p}.")

    def rules(self) -> dict:
        """How to draw a byte: arguments of `perceiver_eqx.generate`."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }


# Of the coordinator: JAX asks what started the processes.
AUTO = "auto"


@dataclass(frozen=True)
class TrainConfig:
    """A run. Everything that decides its numbers is here and in the data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    steps: int = 1200
    """Optimizer steps."""
    batch_size: int = 2
    """Sequences of an optimizer step."""
    micro_batches: int = 1
    """Parts that a batch is cut into, one after the other, to save memory."""
    chunk_steps: int = 128
    """Steps that are held at once in training; the memory of a finite window."""
    seed: int = 0
    """Of parameters, data order and dropout."""
    out: Path = Path("runs/default")
    """Folder of the run: checkpoints, metrics, model, curve."""
    resume: bool = True
    """Go on from the newest checkpoint in `out`, if there is one."""
    resume_step: int | None = None
    """Go on from the checkpoint of this step, and set later ones aside."""
    resume_changed: bool = False
    """Go on with another config or other data on purpose: what comes of it no unbroken
    run would give."""
    max_skipped: int = 10
    """Steps in a row without a finite loss and gradient that end the run."""
    hang_seconds: float | None = 3600.0
    """How long a step, its compilation included, may take before the stacks of all
    threads are written to hang.txt and the run ends; None for ever."""
    log_every: int = 25
    """Steps between progress lines."""
    validate_every: int = 400
    """Steps between evaluations on held-out content."""
    sample_every: int = 400
    """Steps between samples."""
    save_every: int = 200
    """Steps between checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard events too."""
    mesh: str = ""
    """Devices of the run along each axis, such as data=2,model=2,time=2: sequences lie
    along data, parameters along model, the steps of a sequence along time. If it is not
    given, all GPUs are taken, along data as far as the batch goes, then along time."""
    num_processes: int = 1
    """Processes of the run, each with some of the devices, started by the same command
    but for process-id."""
    process_id: int = 0
    """Which of them this is, from 0 on; the first alone writes."""
    coordinator: str | None = None
    """host:port of the first process, by which the others find it; auto where JAX finds
    out itself, under SLURM or Open MPI; None for a run of one."""

    def __post_init__(self):
        _at_least(1, self, "steps", "batch_size", "micro_batches", "chunk_steps")
        _at_least(1, self, "log_every", "validate_every", "sample_every", "save_every")
        _at_least(1, self, "max_skipped")
        _at_least(0, self, "seed")
        if self.hang_seconds is not None and not 0 < self.hang_seconds <= 1e6:
            raise ValueError(
                f"`hang_seconds` must lie in (0, 1e6], got {self.hang_seconds}."
            )
        window, per_step = self.data.window_bytes, self.model.bytes_per_step
        if window % per_step:
            raise ValueError(
                f"`window_bytes` must be a multiple of `bytes_per_step` = {per_step}, "
                f"got {window}; the nearest below is {window - window % per_step}."
            )
        needed = self.data.kind not in ("bytes", "sequences")
        if needed != self.model.use_context:
            raise ValueError(
                "`use_context` must be on for pairs, copy and needle, which have "
                "contexts, and off for bytes and sequences, got "
                f"{self.model.use_context} for {self.data.kind!r}."
            )
        if self.data.kind == "copy" and window != self.data.context_bytes:
            raise ValueError(
                f"`window_bytes` must be `context_bytes` = {self.data.context_bytes} "
                f"to copy it, got {window}."
            )
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"`micro_batches` must divide `batch_size` = {self.batch_size}, got "
                f"{self.micro_batches}."
            )
        self._check_processes()
        parse_mesh(self.mesh)
        if self.optim.warmup_steps >= self.steps:
            raise ValueError(
                f"`warmup_steps` must be below `steps` = {self.steps}, got "
                f"{self.optim.warmup_steps}."
            )

    def _check_processes(self) -> None:
        count = self.num_processes
        _at_least(1, self, "num_processes")
        if not 0 <= self.process_id < count:
            raise ValueError(
                f"`process_id` must be at least 0 and below `num_processes` = {count}, "
                f"got {self.process_id}."
            )
        if self.coordinator == AUTO and count == 1:
            return
        if (self.coordinator is None) != (count == 1):
            raise ValueError(
                "`coordinator` must be host:port of the first process where "
                "`num_processes` is above 1, and None, or auto, where it is 1, got "
                f"{self.coordinator!r} for {count}."
            )
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 65536):
                raise ValueError(
                    "`coordinator` must be host:port, such as 10.0.0.1:1234, got "
                    f"{self.coordinator!r}."
                )


def to_json(config: TrainConfig) -> dict:
    """The config as plain JSON, paths as text."""

    def plain(values: dict) -> dict:
        return {name: leaf(value) for name, value in values.items()}

    def leaf(value):
        if isinstance(value, dict):
            return plain(value)
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def _at_least(least: int, config, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(
                f"`{name}` must be at least {least}, got {getattr(config, name)}."
            )
