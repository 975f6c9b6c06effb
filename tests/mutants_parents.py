"""Planted mistakes in the parents and in what reads their files."""

from tests.planting import Mutant


AR, AR_TEST = "perceiver_eqx/perceiver_ar.py", "tests/test_perceiver_ar.py::"
PARENTS, PARENTS_TEST = "perceiver_eqx/parents.py", "tests/test_parents.py::"
TENSORS, TENSORS_TEST = (
    "perceiver_eqx/pretrained/tensors.py",
    "tests/pretrained/test_tensors.py::",
)
STREAM = AR_TEST + "test_a_stream_is_the_model_of_what_it_remembers"

MUTANTS = (
    Mutant(
        "Perceiver AR: padding seen",
        AR,
        "mask = StepMask(steps, seen, rows, 1, None, first, key_start)",
        "mask = StepMask(steps, seen, rows, 1, None, first, 0)",
        AR_TEST + "test_the_first_symbols_may_be_absent",
    ),
    Mutant(
        "Perceiver AR: latents normed as the prefix when all is read again",
        AR,
        "is_latent, self.cross.query_norm(inputs), self.cross.input_norm(inputs)",
        "is_latent, self.cross.input_norm(inputs), self.cross.input_norm(inputs)",
        STREAM,
    ),
    Mutant(
        "Perceiver AR: nothing forgotten when there are too many symbols",
        AR,
        "dropped = jnp.where(full, stride, 0)",
        "dropped = jnp.where(full, 0, 0)",
        STREAM,
    ),
    Mutant(
        "Perceiver AR: latents placed from the first symbol on",
        AR,
        "own_places = prefix + jnp.arange(latents)",
        "own_places = jnp.arange(latents)",
        STREAM,
    ),
    Mutant(
        "Perceiver AR: all of the prefix seen in training",
        AR,
        "kept = prefix - int(prefix * self.prefix_dropout)",
        "kept = prefix",
        AR_TEST + "test_a_share_of_the_prefix_is_left_out_in_training",
    ),
    Mutant(
        "Perceiver IO: tokens that are not there attended",
        PARENTS,
        "x = cross(x, inputs, mask=mask, key=keys[2 * place])",
        "x = cross(x, inputs, key=keys[2 * place])",
        PARENTS_TEST + "test_tokens_that_are_masked_count_as_absent",
    ),
    Mutant(
        "Perceiver IO: one block in the place of all",
        PARENTS,
        "block = self.processors[min(place, len(self.processors) - 1)]",
        "block = self.processors[0]",
        PARENTS_TEST + "test_it_is_its_description_written_out_in_float64",
    ),
    Mutant(
        "Perceiver IO: the last piece of the outputs left out",
        "perceiver_eqx/decoder.py",
        "return jnp.concatenate([outputs, read(queries[whole:])])",
        "return outputs",
        PARENTS_TEST + "test_outputs_in_pieces_are_the_same",
    ),
    Mutant(
        "Fourier features: cosines first",
        "perceiver_eqx/positions.py",
        "positions, jnp.sin(angles), jnp.cos(angles)",
        "positions, jnp.cos(angles), jnp.sin(angles)",
        "tests/test_positions.py::test_fourier_features_are_their_formula",
    ),
    Mutant(
        "rotary: channels that should stay turned around",
        "perceiver_eqx/positions.py",
        "for part in turned), x[..., dims:]]",
        "for part in turned), -x[..., dims:]]",
        "tests/test_positions.py::test_of_some_channels_the_others_stay_as_they_are",
    ),
    Mutant(
        "perceiver-io: neighbours turned as halves",
        "perceiver_eqx/pretrained/krasserm_ar.py",
        "query_key=TRANSPOSED if later else turned,",
        "query_key=TRANSPOSED,",
        "tests/pretrained/test_krasserm.py::"
        "test_a_model_gives_what_it_gave_in_its_library",
    ),
    Mutant(
        "DeepMind: exact GELUs",
        "perceiver_eqx/pretrained/deepmind.py",
        "tanh_gelu: bool = True",
        "tanh_gelu: bool = False",
        "tests/pretrained/test_deepmind.py::"
        "test_it_is_the_port_of_the_same_numbers_but_for_the_gelu",
    ),
    Mutant(
        "files: compressed contents read",
        TENSORS,
        "if info.compress_type != zipfile.ZIP_STORED or info.file_size != "
        "info.compress_size:",
        "if False:",
        TENSORS_TEST + "test_a_zip_bomb_is_refused",
    ),
    Mutant(
        "files: a tensor larger than what is stored for it",
        TENSORS,
        "if count and max(last + 1, count) * dtype.itemsize > size:",
        "if False:",
        TENSORS_TEST + "test_a_hostile_pickle_is_refused",
    ),
    Mutant(
        "files: any function of a pickle called",
        TENSORS,
        "if (module, name) not in self.KNOWN:",
        "import importlib\n        if module != 'torch':\n            return getattr("
        "importlib.import_module(module), name)\n        if False:",
        TENSORS_TEST + "test_a_hostile_pickle_is_refused",
    ),
    Mutant(
        "files: links followed",
        TENSORS,
        "if path.is_symlink():",
        "if False:",
        TENSORS_TEST + "test_a_link_out_of_the_folder_is_refused",
    ),
    Mutant(
        "files: tensors of another shape taken",
        "perceiver_eqx/pretrained/places.py",
        "if found.shape != wanted:",
        "if False:",
        TENSORS_TEST + "test_a_tensor_that_does_not_fit_is_named",
    ),
    Mutant(
        "files: a hash not compared",
        "perceiver_eqx/pretrained/kinds.py",
        "if found != expected.lower():",
        "if False:",
        TENSORS_TEST + "test_a_file_of_another_hash_is_refused",
    ),
)
