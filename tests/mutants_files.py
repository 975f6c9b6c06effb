"""Planted mistakes in plans, and in what is read of files that anybody made."""

from tests.planting import Mutant


HOSTILE = "tests/train/test_hostile.py::"
PLAN = "tests/train/test_plan.py::"
FILES = "tests/train/test_any_files.py::"

MUTANTS = (
    Mutant(
        "code: its own checksum is not looked at",
        "train/compress.py",
        "if _packed(tuple(fields), code) != compressed or num_bytes > most:",
        "if num_bytes > most:",
        "tests/train/test_compress.py::"
        "test_a_single_flipped_bit_is_refused_before_anything_is_decoded",
    ),
    Mutant(
        "checkpoint: whatever Orbax raises comes through",
        "train/checkpoint.py",
        "    except Exception as error:",
        "    except KeyError as error:",
        HOSTILE + "test_a_checkpoint_of_anything_with_the_right_hashes",
    ),
    Mutant(
        "checkpoint: links are followed",
        "train/manifest.py",
        "mode, inside = path.lstat(),",
        "mode, inside = path.stat(),",
        HOSTILE + "test_a_link_out_of_a_checkpoint_is_not_followed",
    ),
    Mutant(
        "pairs: lines are nested without end",
        "train/data/pairs.py",
        "    except RecursionError as error:",
        "    except KeyError as error:",
        HOSTILE + "test_pairs_nested_too_deep_are_refused",
    ),
    Mutant(
        "data: other content of the same size is not noticed",
        "train/data/stream.py",
        "if about.st_mtime_ns != self._written[index]:",
        "if False:",
        "tests/train/test_stream.py::"
        "test_a_file_of_other_content_is_an_error_and_one_written_anew_is_none",
    ),
    Mutant(
        "data: links out of a folder are followed",
        "train/data/files.py",
        "stat.S_ISREG(file.lstat().st_mode)",
        "file.is_file()",
        FILES + "test_all_that_is_not_hidden_is_read_and_nothing_else",
    ),
    Mutant(
        "data: the last bytes of a side are in no window",
        "train/data/windows.py",
        "return -(-len(self.stream) // self.window_bytes)",
        "return max(1, len(self.stream) // self.window_bytes)",
        FILES + "test_in_an_epoch_every_byte_is_sampled_once_and_no_side_knows_the_"
        "other",
    ),
    Mutant(
        "memory: an error that is told late is not known",
        "train/memory.py",
        '"RESOURCE_EXHAUSTED|Out of memory"',
        '"RESOURCE_EXHAUSTED"',
        PLAN + "test_out_of_memory_is_known_however_it_is_said",
    ),
    Mutant(
        "plan: a batch that was guessed is not looked at",
        "train/plan.py",
        "        if found <= room:",
        "        if True:",
        PLAN + "test_the_largest_batch_is_found",
    ),
    Mutant(
        "plan: questions of all latents know their step anew",
        "train/flops.py",
        "linear += steps * weights(ask.place)",
        "linear += rows * weights(ask.place)",
        PLAN + "test_operations_are_those_of_the_traced_products",
    ),
)
