"""Checkpoints: any pytree of arrays with a readable record, saved whole or not at all.

The arrays of a state are stored flat, each in files under its path in the pytree, so
that a checkpoint can be compared with the state it is meant for before anything is
read. A manifest, written last, has a hash of every file: a folder without one is no
checkpoint, and one that does not agree with it is not read.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree

from .manifest import check_manifest, has_manifest, write_manifest


State = TypeVar("State")


class NotSaved(OSError):
    """A checkpoint could not be written."""


def save(
    folder: Path, step: int, state: PyTree, record: dict[str, Any], *, keep: int = 2
):
    """Writes a checkpoint and returns when it is on disk.

    A process killed meanwhile leaves the checkpoints before it as they were.

    Args:
        folder: where the checkpoints lie, one numbered folder each. Made if missing.
        step: number of this checkpoint, at least 0 and after all others in `folder`.
        state: any pytree. Its arrays, none of them of size 0, are saved; other leaves
            belong in `record`.
        record: whatever JSON can hold: the config, versions, the data's fingerprint.
        keep: how many of the newest checkpoints to leave in `folder`, at least 1.

    Raises:
        ValueError: `keep` is less than 1, or `step` is not after the newest checkpoint.
        NotSaved: there is no room for it, or something else hinders; the checkpoints
            before it are as they were.
    """
    if keep < 1:
        raise ValueError(f"`keep` must be at least 1; got {keep}.")
    # Orbax would skip such a step without a word, or delete it as the oldest.
    newest = latest_step(folder)
    if step < 0 or (newest is not None and step <= newest):
        raise ValueError(
            f"`step` must be at least 0 and after the newest checkpoint; got {step}, "
            f"and {str(folder)!r} holds {newest}. Delete the later checkpoints, or "
            "save to another folder."
        )
    try:
        for unfinished in set(_numbered(folder)) - set(all_steps(folder)):
            shutil.rmtree(folder / str(unfinished))
        _write(folder, step, state, record)
    except (OSError, ValueError) as error:
        # Of a file that cannot be written, Orbax raises either.
        raise NotSaved(
            f"the checkpoint of step {step} could not be written to {str(folder)!r}: "
            f"{error}. The checkpoints before it are as they were; make room, or the "
            "folder writable, and start the same command again."
        ) from error
    # One more was kept until the new one had its manifest.
    for old in all_steps(folder)[:-keep]:
        shutil.rmtree(folder / str(old))


def _write(folder: Path, step: int, state: PyTree, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with _manager(folder, cleanup_tmp_directories=True) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(_named_arrays(state)),
                record=ocp.args.JsonSave(record),
            ),
        )
    write_manifest(folder / str(step))


def all_steps(folder: Path) -> list[int]:
    """The steps of all checkpoints that were saved to the end, in their order."""
    return sorted(n for n in _numbered(folder) if has_manifest(folder / str(n)))


def latest_step(folder: Path) -> int | None:
    """Finds the newest complete checkpoint.

    Args:
        folder: where the checkpoints lie; it need not exist.

    Returns:
        Its step, or `None` where there is none.

    Raises:
        ValueError: there are checkpoints from before they had manifests.
    """
    for step in _numbered(folder):
        if (folder / str(step) / "state" / "manifest.ocdbt").exists():
            raise ValueError(
                f"the checkpoint {str(folder / str(step))!r} is from before "
                "checkpoints had manifests, and is not read. Start a new run with "
                "another --out."
            )
    return max(all_steps(folder), default=None)


def restore(
    folder: Path, state_like: State, step: int | None = None
) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint back, bit for bit.

    Args:
        folder: where the checkpoints lie.
        state_like: a state of the same structure. Its arrays give the expected shapes
            and dtypes and the devices to read to; its other leaves are taken over.
        step: which checkpoint; `None` is the newest.

    Returns:
        The state and the record.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the checkpoint is damaged, or its arrays are not those of
            `state_like`.
    """
    newest = latest_step(folder)
    if newest is None:
        raise FileNotFoundError(
            f"`folder` {str(folder)!r} holds no complete checkpoint. Check the path, "
            "or start a new run."
        )
    step = newest if step is None else step
    steps, expected = all_steps(folder), _named_arrays(state_like)
    if step not in steps:
        raise FileNotFoundError(
            f"`step` {step} is not among the checkpoints of {str(folder)!r}: {steps}. "
            "Pass one of these, or None."
        )
    others = [n for n in steps if n < step]
    try:
        check_manifest(folder / str(step))
    except ValueError as error:
        remedy = "start a new run"
        if others:
            remedy = f"go on from step {others[-1]} (--resume-step {others[-1]})"
        raise ValueError(
            f"the checkpoint {str(folder / str(step))!r} is damaged: {error}. Restore "
            f"it, or {remedy}."
        ) from error
    with _manager(folder) as manager:
        with _told(folder / str(step)):
            found = dict(manager.item_metadata(step).state)
        _check_arrays(f"{folder}/{step}", expected, found)
        how = ocp.checkpoint_utils.construct_restore_args(expected)
        with _told(folder / str(step)):
            found = manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(expected, restore_args=how),
                    record=ocp.args.JsonRestore(),
                ),
            )
    arrays, static = eqx.partition(state_like, eqx.is_array)

    def read(path: jtu.KeyPath, like: Any) -> Any:
        array = found.state[_name(path)]
        return jnp.asarray(array) if isinstance(like, jax.Array) else array

    arrays = jtu.tree_map_with_path(read, arrays)
    return eqx.combine(arrays, static), found.record


def set_aside_after(folder: Path, step: int) -> None:
    """Renames all later checkpoints, whole or not, so that a run can go on from this
    one."""
    for later in _numbered(folder):
        if later > step:
            name = f"{later}.aside"
            while (folder / name).exists():
                name += "_"
            (folder / str(later)).rename(folder / name)


def _numbered(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]


@contextmanager
def _manager(folder: Path, **options: Any):
    # Orbax warns of a file an array, by which it can be named, and tells at length
    # what it raises anyway.
    logger = logging.getLogger("absl")
    logger.addFilter(_silent)
    alone = {}
    if jax.process_count() > 1:
        # Or it would wait for the other processes.
        index = jax.process_index()
        alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=index,
            active_processes={index},
            barrier_sync_key_prefix=f"process_{index}",
        )
    try:
        # Named handlers let metadata be read without a warning for each item.
        with ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                create=False, enable_async_checkpointing=False, **options, **alone
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(use_ocdbt=False, **alone),
                "record": ocp.JsonCheckpointHandler(**alone),
            },
        ) as manager:
            yield manager
    finally:
        logger.removeFilter(_silent)


@contextmanager
def _told(checkpoint: Path) -> Iterator[None]:
    """What Orbax and its libraries raise, of any kind, where files with the right
    hashes hold what they do not expect.

    Raises:
        ValueError: they raise.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"the checkpoint {str(checkpoint)!r} cannot be read, though its files have "
            f"the hashes that its manifest tells: {error}. Something else than this "
            "version wrote it; start a new run."
        ) from error


def _silent(_: logging.LogRecord) -> bool:
    return False


def _name(path: jtu.KeyPath) -> str:
    return jtu.keystr(path).lstrip(".")


def _named_arrays(state: PyTree) -> dict[str, Array | np.ndarray]:
    leaves = jtu.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    # Of several processes, Orbax takes no array of one.
    kept = jax.Array if jax.process_count() == 1 else ()
    return {
        _name(path): leaf if isinstance(leaf, kept) else np.asarray(leaf)
        for path, leaf in leaves
    }


def _check_arrays(checkpoint: str, expected: dict[str, Any], found: Any):
    def describe(arrays: Any, name: str) -> str:
        if name not in arrays:
            return "nothing"
        return f"{np.dtype(arrays[name].dtype)}{list(arrays[name].shape)}"

    names = [*expected, *(name for name in found if name not in expected)]
    wrong = [
        f"  `{name}`: expected {want}, found {got}"
        for name in names
        if (want := describe(expected, name)) != (got := describe(found, name))
    ]
    if wrong:
        raise ValueError(
            f"The checkpoint {checkpoint!r} does not fit `state_like`:\n"
            + "\n".join(wrong)
            + "\nBuild the state with the config that the checkpoint's record holds."
        )
