"""Planted mistakes in what a run survives; `tests/mutants.py` says what for."""

from tests.planting import Mutant


GUARD = "tests/train/test_guard.py::"
MANIFEST = "tests/train/test_manifest.py::"
ENDS = "tests/train/test_interruptions.py::"
TWO = "tests/train/test_two_processes.py::"

KEPT = GUARD + "test_what_is_not_finite_never_reaches_parameters_or_what_is_kept[adamw]"
COUNTED = GUARD + "test_steps_are_taken_and_counted_as_said"
IN_A_ROW = ENDS + "test_too_many_steps_in_a_row_that_are_not_finite_end_a_run"
FLIPPED = MANIFEST + "test_a_single_flipped_bit_is_noticed_in_whatever_file"
STOPPED = ENDS + "test_asked_to_stop_at_any_moment[15]"
AS_ONE = TWO + "test_two_processes_train_as_one_and_stop_when_one_is_asked_to"

MUTANTS = (
    Mutant(
        "guard: a gradient that is not finite is taken",
        "train/guard.py",
        "takes = jnp.isfinite(loss) & jnp.isfinite(norm)",
        "takes = jnp.isfinite(loss)",
        KEPT,
    ),
    Mutant(
        "guard: what the optimizer keeps is not kept",
        "train/step.py",
        "opt_state = kept_unless(takes, opt_state, state.opt_state)",
        "opt_state = kept_unless(True, opt_state, state.opt_state)",
        KEPT,
    ),
    Mutant(
        "guard: parameters are not kept",
        "train/step.py",
        "params = kept_unless(takes, updated, params)",
        "params = updated",
        KEPT,
    ),
    Mutant(
        "guard: skipped steps in a row are never forgotten",
        "train/guard.py",
        "jnp.where(takes, 0, self.in_a_row + 1)",
        "self.in_a_row + ~takes",
        COUNTED,
    ),
    Mutant(
        "guard: the mean is of skipped steps too",
        "train/guard.py",
        "jnp.where(takes, mean, self.mean_norm)",
        "mean",
        COUNTED,
    ),
    Mutant(
        "guard: spikes are told by the first steps",
        "train/guard.py",
        "takes &= early | (norm",
        "takes &= (norm",
        COUNTED,
    ),
    Mutant(
        "a run ends one skipped step late",
        "train/loop.py",
        'int(metrics["skipped_in_a_row"]) >= config.max_skipped',
        'int(metrics["skipped_in_a_row"]) > config.max_skipped',
        IN_A_ROW,
    ),
    Mutant(
        "the learning rate that is told counts skipped steps",
        "train/report.py",
        "self._schedule(step - 1 - skipped + skips)",
        "self._schedule(step - 1)",
        IN_A_ROW,
    ),
    Mutant(
        "metrics that are not finite are written as they are",
        "train/metrics.py",
        "if isinstance(value, float) and not math.isfinite(value):",
        "if False:",
        IN_A_ROW,
    ),
    Mutant(
        "checkpoint: nothing is held to the manifest",
        "train/checkpoint.py",
        "        check_manifest(folder / str(step))\n",
        "        pass\n",
        FLIPPED,
    ),
    Mutant(
        "manifest: sizes alone are compared",
        "train/manifest.py",
        "if _hash(folder / name) != digest:",
        "if False:",
        FLIPPED,
    ),
    Mutant(
        "manifest: its own hash is not looked at",
        "train/manifest.py",
        "if end or _hash_of(text.encode()) != digest:",
        "if end:",
        MANIFEST + "test_another_manifest_is_told[space]",
    ),
    Mutant(
        "manifest: links are followed",
        "train/manifest.py",
        "path.lstat()",
        "path.stat()",
        MANIFEST + "test_each_damage_is_told[link-record/metadata]",
    ),
    Mutant(
        "manifest: files that were not there are passed over",
        "train/manifest.py",
        "sorted(sizes.keys() - files)",
        "[]",
        MANIFEST + "test_each_damage_is_told[more-record/metadata]",
    ),
    Mutant(
        "checkpoint: one without a manifest counts",
        "train/manifest.py",
        "return (folder / NAME).exists()",
        "return True",
        MANIFEST + "test_without_a_manifest_there_is_no_checkpoint",
    ),
    Mutant(
        "stop: an evaluation that was given up counts as done",
        "train/loop.py",
        "                    return False\n",
        "                    return True\n",
        STOPPED,
    ),
    Mutant(
        "stop: what was logged of a step that is done again stays",
        "train/metrics.py",
        "before = resume_step + whole",
        "before = resume_step + 1",
        STOPPED,
    ),
    Mutant(
        "hang: nothing is watched",
        "train/process.py",
        "if time.monotonic() - last >= seconds:",
        "if False:",
        ENDS + "test_a_step_that_does_not_end_ends_the_run",
    ),
    Mutant(
        "processes: each stops when it is asked to itself",
        "train/distributed.py",
        "if self.mesh is None:\n            return asked",
        "if True:\n            return asked",
        AS_ONE,
    ),
    Mutant(
        "processes: all write metrics",
        "train/loop.py",
        "if group.first\n        else nullcontext() as log",
        "if True\n        else nullcontext() as log",
        AS_ONE,
    ),
    Mutant(
        "processes: their number may not change",
        "train/resumable.py",
        '    "num_processes",\n',
        "",
        TWO + "test_the_number_of_processes_may_change_and_is_in_no_old_checkpoint",
    ),
    Mutant(
        "processes: that the first could not save is not told to the others",
        "train/distributed.py",
        'said, *_ = self._gathered("" if error is None else f"{error!s} ")',
        'said = ""',
        TWO + "test_where_the_first_cannot_save_all_end_with_a_message",
    ),
    Mutant(
        "processes: their configs are not compared",
        "train/distributed.py",
        "if one != two:",
        "if False:",
        TWO + "test_processes_of_other_configs_do_not_begin",
    ),
)
