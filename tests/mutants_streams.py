"""Planted mistakes in streams; `tests/mutants.py` says what they are for."""

from tests.planting import Mutant


MODEL = "tests/test_stream_model.py::"
LIKELIHOOD = "tests/test_stream_likelihood.py::"
PADDING = "tests/test_padding.py::"
GENERATE = "tests/test_stream_generate.py::"
ADAPTERS = "tests/test_streams.py::"

CONTRACT = (
    MODEL + "test_a_step_changes_predictions_from_it_on_and_its_own_if_it_is_not_"
    "predicted"
)
WRITTEN_OUT = MODEL + "test_it_is_a_perceiver_between_adapters"
BY_CHUNKS = (
    LIKELIHOOD + "test_by_chunks_the_likelihood_of_every_adapter_is_that_of_the_whole"
)
MIXTURE = (
    ADAPTERS + "test_the_likelihood_of_values_is_a_difference_of_logistic_functions"
)
DRAWN = ADAPTERS + "test_what_is_drawn_is_as_frequent_as_it_is_likely"

OF_THE_MODEL = (
    Mutant(
        "a predicted stream is seen at once",
        "perceiver_eqx/stream_model.py",
        "self._predict(state.perceiver, tokens | seen, key)",
        "self._predict(state.perceiver, tokens, key)",
        CONTRACT,
    ),
    Mutant(
        "a predicted stream is seen one step early",
        "perceiver_eqx/stream_model.py",
        "jnp.concatenate([before[None], tokens[name][:-1]])",
        "jnp.concatenate([tokens[name][1:], before[None]])",
        CONTRACT,
    ),
    Mutant(
        "every stream is seen one step late",
        "perceiver_eqx/stream_model.py",
        "for name, x in inputs.items() if name in outputs}",
        "for name, x in inputs.items()}",
        MODEL + "test_by_gradient_predictions_depend_on_all_they_may_and_on_no_more",
    ),
    Mutant(
        "the first of the last steps is kept",
        "perceiver_eqx/stream_model.py",
        "last = {name: tokens[name][-1] for name in state.last}",
        "last = {name: tokens[name][0] for name in state.last}",
        MODEL + "test_however_a_sequence_is_cut_the_predictions_are_equal",
    ),
    Mutant(
        "a prediction without the step before",
        "perceiver_eqx/stream_model.py",
        "late = {name: before[None] for name, before in state.last.items()}",
        "late = {name: 0 * before[None] for name, before in state.last.items()}",
        MODEL + "test_a_step_predicted_and_then_put_is_a_step",
    ),
    Mutant(
        "a step that is put is lost",
        "perceiver_eqx/stream_model.py",
        "{name: x[0] for name, x in tokens.items()}",
        "{name: 0 * x[0] for name, x in tokens.items()}",
        GENERATE + "test_what_is_generated_is_what_is_predicted_of_it",
    ),
    Mutant(
        "tokens of a context that are not there",
        "perceiver_eqx/stream_model.py",
        "self.perceiver.add_context(state.perceiver, tokens, context_count)",
        "self.perceiver.add_context(state.perceiver, tokens)",
        PADDING + "test_tokens_behind_those_that_count_change_no_number",
    ),
    Mutant(
        "no tokens of a context",
        "perceiver_eqx/stream_model.py",
        "return self.add_context(state, context, context_count)",
        "return state",
        MODEL + "test_the_context_is_seen_by_all_steps_and_what_is_only_predicted_by_"
        "none",
    ),
    Mutant(
        "steps count that do not",
        "perceiver_eqx/stream_model.py",
        "jnp.minimum(steps_count, steps)",
        "steps",
        PADDING + "test_steps_behind_those_that_count_change_no_number",
    ),
    Mutant(
        "steps count that fill up the last chunk",
        "perceiver_eqx/stream_model.py",
        "(jnp.arange(count * chunk) < last)",
        "(jnp.arange(count * chunk) <= last)",
        BY_CHUNKS,
    ),
    Mutant(
        "every chunk begins anew",
        "perceiver_eqx/stream_model.py",
        "return _parted(state)[0], nats",
        "return carry, nats",
        BY_CHUNKS,
    ),
    Mutant(
        "gradients stop between chunks",
        "perceiver_eqx/stream_model.py",
        "return _parted(state)[0], nats",
        "return lax.stop_gradient(_parted(state)[0]), nats",
        LIKELIHOOD + "test_by_chunks_gradients_are_those_of_the_whole",
    ),
    Mutant(
        "chunks are not computed again",
        "perceiver_eqx/stream_model.py",
        "@jax.checkpoint",
        "@jax.jit",
        LIKELIHOOD + "test_what_is_kept_of_many_chunks_is_a_state_for_each",
    ),
    Mutant(
        "chunks hand on the context",
        "perceiver_eqx/stream_model.py",
        "jax.tree.map(lambda _: True, state), False",
        "jax.tree.map(lambda _: True, state), True",
        LIKELIHOOD + "test_what_is_kept_of_many_chunks_is_a_state_for_each",
    ),
    Mutant(
        "chunks without a window",
        "perceiver_eqx/stream_model.py",
        "if chunk >= steps or self.latent_window is None:",
        "if chunk >= steps:",
        LIKELIHOOD + "test_without_a_window_chunks_are_not_used",
    ),
    Mutant(
        "generation from the beginning",
        "perceiver_eqx/stream_generate.py",
        "    if state is None:\n",
        "    if True:\n",
        GENERATE + "test_generation_goes_on_from_a_state",
    ),
    Mutant(
        "every step drawn by one key",
        "perceiver_eqx/stream_generate.py",
        "given, key = of_step",
        "given, _ = of_step",
        GENERATE + "test_draws_are_as_frequent_as_they_are_likely",
    ),
)

OF_ALL_STREAMS = (
    Mutant(
        "tokens that do not know their place",
        "perceiver_eqx/adapters/streams.py",
        "return self.places(self.linear(tokens.astype(dtype)))",
        "return self.linear(tokens.astype(dtype))",
        WRITTEN_OUT,
    ),
    Mutant(
        "all streams read the same places",
        "perceiver_eqx/adapters/streams.py",
        "predictions[name], start = adapter(found.astype(wide)), end",
        "predictions[name] = adapter(found.astype(wide))",
        WRITTEN_OUT,
    ),
    Mutant(
        "predictions as coarse as the latents",
        "perceiver_eqx/adapters/streams.py",
        "adapter(found.astype(wide)), end",
        "adapter(found), end",
        MODEL + "test_it_computes_in_the_dtype_it_is_told_and_predicts_in_float32",
    ),
    Mutant(
        "the likelihood of one stream",
        "perceiver_eqx/adapters/streams.py",
        "return sum(nats[1:], nats[0])",
        "return nats[0]",
        LIKELIHOOD + "test_its_likelihood_is_that_of_all_streams",
    ),
    Mutant(
        "a state taken for what was predicted",
        "perceiver_eqx/stream_model.py",
        "if not isinstance(perceiver, PerceiverState):",
        "if False:",
        "tests/test_stream_model.py::test_a_step_is_predicted_and_put_by_itself",
    ),
    Mutant(
        "all streams drawn by one key",
        "perceiver_eqx/adapters/streams.py",
        "split_key(key, len(names))",
        "[key] * len(names)",
        GENERATE + "test_streams_of_the_same_prediction_are_drawn_apart",
    ),
)

OF_ADAPTERS = (
    Mutant(
        "symbols at once share their vectors",
        "perceiver_eqx/adapters/symbols.py",
        "self.embedding(inputs.astype(jnp.int32) + tables)",
        "self.embedding(inputs.astype(jnp.int32) + 0 * tables)",
        ADAPTERS + "test_a_symbol_is_the_vector_of_its_own_place",
    ),
    Mutant(
        "logits for logarithms of probabilities",
        "perceiver_eqx/adapters/symbols.py",
        "found = jax.nn.log_softmax(prediction)",
        "found = prediction",
        ADAPTERS + "test_the_likelihood_of_symbols_is_that_of_a_softmax",
    ),
    Mutant(
        "on for off",
        "perceiver_eqx/adapters/symbols.py",
        "jnp.where(targets, prediction, -prediction)",
        "jnp.where(targets, -prediction, prediction)",
        ADAPTERS + "test_the_likelihood_of_switches_is_that_of_a_logistic_function",
    ),
    Mutant(
        "switches drawn by their logits alone",
        "perceiver_eqx/adapters/symbols.py",
        "jr.bernoulli(key, jax.nn.sigmoid(prediction))",
        "jr.bernoulli(key, 0.5 + 0 * prediction)",
        DRAWN,
    ),
    Mutant(
        "values that are all above zero",
        "perceiver_eqx/adapters/values.py",
        "(2 / (2**bits - 1)) - 1",
        "(2 / (2**bits - 1))",
        ADAPTERS
        + "test_values_in_a_row_make_tokens_and_levels_run_from_minus_one_to_one",
    ),
    Mutant(
        "the last level without a tail",
        "perceiver_eqx/adapters/values.py",
        "share = jnp.where(last, 0, jax.nn.log_sigmoid(end))",
        "share = jax.nn.log_sigmoid(end)",
        ADAPTERS + "test_the_probabilities_of_all_levels_sum_to_one",
    ),
    Mutant(
        "the first level without a tail",
        "perceiver_eqx/adapters/values.py",
        "share += jnp.where(first, 0, jax.nn.log_sigmoid(-start))",
        "share += jax.nn.log_sigmoid(-start)",
        MIXTURE,
    ),
    Mutant(
        "levels as wide as all numbers",
        "perceiver_eqx/adapters/values.py",
        "share += jnp.where(first | last, 0, _log_less(-log_scales))",
        "share += 0",
        MIXTURE,
    ),
    Mutant(
        "weights of a mixture that do not sum to one",
        "perceiver_eqx/adapters/values.py",
        "weights = jax.nn.log_softmax(prediction.logits)",
        "weights = prediction.logits",
        MIXTURE,
    ),
    Mutant(
        "scales that vanish",
        "perceiver_eqx/adapters/values.py",
        "least + above",
        "scales",
        ADAPTERS + "test_likelihoods_and_their_gradients_are_finite_however_wrong",
    ),
    Mutant(
        "widths that vanish",
        "perceiver_eqx/adapters/values.py",
        "small = width < 1e-3",
        "small = width < 0",
        ADAPTERS + "test_likelihoods_and_their_gradients_are_finite_however_wrong",
    ),
    Mutant(
        "values drawn with the wrong scale",
        "perceiver_eqx/adapters/values.py",
        "jnp.round(mean + jnp.exp(log_scale) * noise)",
        "jnp.round(mean + noise)",
        DRAWN,
    ),
    Mutant(
        "values rounded down",
        "perceiver_eqx/adapters/values.py",
        "jnp.round(mean + jnp.exp(log_scale) * noise)",
        "jnp.floor(mean + jnp.exp(log_scale) * noise)",
        DRAWN,
    ),
    Mutant(
        "values that are drawn past the last level",
        "perceiver_eqx/adapters/values.py",
        "levels = jnp.clip(levels, 0, self.top)",
        "levels = (levels % (self.top + 1))",
        DRAWN,
    ),
    Mutant(
        "levels of frames as numbers",
        "perceiver_eqx/adapters/frames.py",
        "jax.vmap(self.grid)(as_values(inputs, self.bits))",
        "jax.vmap(self.grid)(inputs)",
        ADAPTERS + "test_a_frame_is_read_as_the_grid_that_it_is",
    ),
)

MUTANTS = OF_THE_MODEL + OF_ALL_STREAMS + OF_ADAPTERS
