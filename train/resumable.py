"""What may change when a run goes on, and what may not."""

# What may change when a run is resumed: it decides no number of the training itself.
FREE_ON_RESUME = (
    "sample",
    "out",
    "resume",
    "resume_step",
    "resume_changed",
    "max_skipped",
    "hang_seconds",
    "log_every",
    "validate_every",
    "sample_every",
    "save_every",
    "tensorboard",
    "mesh",
    "num_processes",
    "process_id",
    "coordinator",
)


def check_resumable(recorded: dict, now: dict, prefix: str = "") -> None:
    """Refuse to resume a run under a config that would change its numbers.

    Args:
        recorded: the config of the checkpoint, as `to_json` gives it.
        now: the config to go on with, likewise.

    Raises:
        ValueError: a field differs; it is named, with both values.
    """
    for name in sorted(recorded.keys() | now.keys()):
        if not prefix and name in FREE_ON_RESUME:
            continue
        before, after = recorded.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            check_resumable(before, after, f"{prefix}{name}.")
        elif before != after:
            raise ValueError(
                f"`{prefix}{name}` was {before!r} in the run to resume and is "
                f"{after!r} now. Give it the old value, start a new run with another "
                "--out, or pass --resume-changed."
            )
