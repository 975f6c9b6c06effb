"""Planted mistakes, each of which a named test must catch: `nox -s slow`.

A mistake that no longer applies to the source is an error too.
"""

from tests.planting import Mutant


MODEL = "tests/test_model.py::"
BYTES = "tests/test_byte_lm.py::"
PREFIX = "tests/attention/test_prefix.py::"
ATTEND = "tests/attention/test_attend.py::"
PARTS = "tests/attention/test_parts.py::"
FUSED = "tests/attention/test_prefix_fused.py::"
POSITIONS = "tests/test_positions.py::"
STREAMING = "tests/test_streaming.py::"
GENERATE = "tests/test_generate.py::"
COMPARED = "tests/quality/test_models.py::"
CONV = "tests/test_conv.py::"
LAYERS = "tests/test_layers.py::"

MUTANTS = (
    Mutant(
        "latent mask open by one step",
        "perceiver_eqx/attention/masks.py",
        "allowed = (key_step <= query_step) &",
        "allowed = (key_step <= query_step + 1) &",
        MODEL + "test_a_change_of_a_step_leaves_all_outputs_before_it_to_the_bit",
    ),
    Mutant(
        "latent mask closed by one step",
        "perceiver_eqx/attention/masks.py",
        "allowed = (key_step <= query_step) &",
        "allowed = (key_step < query_step) &",
        "tests/attention/test_masks.py::"
        "test_the_latent_mask_is_the_seeds_own_expression",
    ),
    Mutant(
        "window longer by one step",
        "perceiver_eqx/attention/masks.py",
        "allowed &= query_step - key_step < self.window",
        "allowed &= query_step - key_step <= self.window",
        MODEL + "test_it_is_the_seed_written_out_literally",
    ),
    Mutant(
        "a generator compiled for each shape",
        "perceiver_eqx/draws.py",
        "return max(ROOM, 1 << max(size - 1, 0).bit_length())",
        "return size",
        "tests/test_draws.py::test_many_shapes_are_one_program",
    ),
    Mutant(
        "parameters from the end of what was drawn",
        "perceiver_eqx/draws.py",
        "numbers[: math.prod(shape)]",
        "numbers[numbers.size - math.prod(shape) :]",
        "tests/test_draws.py::test_numbers_are_those_of_jax",
    ),
    Mutant(
        "input mask open by one step",
        "perceiver_eqx/attention/prefix.py",
        "seen = (age >= 0)",
        "seen = (age >= -1)",
        PREFIX + "test_a_change_of_a_later_token_leaves_earlier_outputs_to_the_bit",
    ),
    Mutant(
        "convolution turned around in time",
        "perceiver_eqx/conv.py",
        "[(kernel - 1 - past, 0), (0, 0), (0, 0)]",
        "[(0, kernel - 1 - past), (0, 0), (0, 0)]",
        CONV + "test_a_change_of_a_step_leaves_the_rows_before_it_to_the_bit",
    ),
    Mutant(
        "the oldest tap of a convolution on the newest step",
        "perceiver_eqx/conv.py",
        "start = kernel - 1 - age",
        "start = age",
        BYTES + "test_it_is_its_description_written_out_in_float64",
    ),
    Mutant(
        "a convolution forgets what came before",
        "perceiver_eqx/conv.py",
        "return mixed.astype(x.dtype), known[steps:]",
        "return mixed.astype(x.dtype), before",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "scale missing in attend",
        "perceiver_eqx/attention/dense.py",
        "jnp.where(allowed, scores * query.shape[-1] ** -0.5, -jnp.inf)",
        "jnp.where(allowed, scores, -jnp.inf)",
        ATTEND + "test_an_engine_equals_the_oracle_forward_and_backward",
    ),
    Mutant(
        "scale missing in the backward pass of blockwise",
        "perceiver_eqx/attention/blockwise.py",
        "scale = query.shape[-1] ** -0.5",
        "scale = 1.0",
        ATTEND + "test_an_engine_equals_the_oracle_forward_and_backward[blockwise",
    ),
    Mutant(
        "scale missing in prefix_attend",
        "perceiver_eqx/attention/prefix.py",
        "scores = scores * query.shape[-1] ** -0.5",
        "scores = scores * 1.0",
        PREFIX + "test_it_equals_the_dense_oracle_forward_and_backward",
    ),
    Mutant(
        "inputs not delayed by a step",
        "perceiver_eqx/adapters/bytes.py",
        "return both[:-1], byte_late.reshape(features.shape)",
        "return features, byte_late.reshape(features.shape)",
        BYTES + "test_a_change_of_a_byte_leaves_the_logits_up_to_its_own_to_the_bit",
    ),
    Mutant(
        "bytes inside a step not delayed",
        "perceiver_eqx/adapters/bytes.py",
        "byte_late = both.reshape(-1, dim)[per_step - 1 : -1]",
        "byte_late = both.reshape(-1, dim)[per_step:]",
        BYTES + "test_a_change_of_a_byte_leaves_the_logits_up_to_its_own_to_the_bit",
    ),
    Mutant(
        "carry between chunks of the loss dropped",
        "train/loss.py",
        "state, logits = model.advance_unchecked(",
        "_, logits = model.advance_unchecked(",
        "tests/train/test_loss.py::"
        "test_in_any_chunks_loss_and_gradients_are_those_of_the_whole",
    ),
    Mutant(
        "carry of local layers between chunks of all latents dropped",
        "train/loss.py",
        "features, inputs = model.inputs(",
        "features, _ = model.inputs(",
        "tests/train/test_loss.py::"
        "test_in_any_chunks_loss_and_gradients_are_those_of_the_whole",
    ),
    Mutant(
        "carry between groups of chunks dropped",
        "train/loss.py",
        "def take_group(carry, chunks):\n        return lax.scan(take, carry, chunks)",
        "def take_group(carry, chunks):\n"
        "        return carry, lax.scan(take, carry, chunks)[1]",
        "tests/train/test_loss.py::"
        "test_in_any_chunks_loss_and_gradients_are_those_of_the_whole",
    ),
    Mutant(
        "prefix state reset at each chunk",
        "perceiver_eqx/encoder.py",
        "*known, initial=prefix, context",
        "*known, initial=None, context",
        MODEL + "test_however_a_sequence_is_cut_the_outputs_are_equal",
    ),
    Mutant(
        "prefix state reset at each tile of the scan",
        "perceiver_eqx/attention/prefix.py",
        "return jax.tree.map(lambda x: x[-1], seen), average",
        "return carried, average",
        PREFIX + "test_it_equals_the_dense_oracle_forward_and_backward",
    ),
    Mutant(
        "what rounding takes from the log-sum-exp dropped",
        "perceiver_eqx/attention/softmax.py",
        "rest = lost + (rest - addend)",
        "rest = (rest - addend)",
        PREFIX + "test_a_stream_of_single_steps_beside_a_context_loses_nothing_to_"
        "rounding",
    ),
    Mutant(
        "ring of past keys off by one",
        "perceiver_eqx/state.py",
        "jnp.minimum(past_steps, self.capacity)",
        "jnp.minimum(past_steps + 1, self.capacity)",
        MODEL + "test_however_a_sequence_is_cut_the_outputs_are_equal",
    ),
    Mutant(
        "ring: a step sees a place that is empty yet",
        "perceiver_eqx/state.py",
        "jnp.repeat(age <= past_steps, rows)",
        "jnp.repeat(age <= past_steps + 1, rows)",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "ring: a step taken for older than it is",
        "perceiver_eqx/state.py",
        "age = 1 + (self.end - 1 - ",
        "age = 1 + (self.end - ",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "ring: new steps one place too far",
        "perceiver_eqx/state.py",
        "places = (self.end + jnp.arange(kept))",
        "places = (self.end + 1 + jnp.arange(kept))",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "rotary: angles that float32 counts",
        "perceiver_eqx/positions.py",
        "angles = _angles(positions, radians, dtype)",
        "angles = positions[:, None].astype(dtype) * jnp.asarray(radians, dtype)",
        POSITIONS + "test_dot_products_depend_on_distance_alone",
    ),
    Mutant(
        "streaming: the count goes back by another number than the period",
        "perceiver_eqx/positions.py",
        "count < 3 * ROTARY_PERIOD // 2, 0, ROTARY_PERIOD)",
        "count < 3 * ROTARY_PERIOD // 2, 0, ROTARY_PERIOD - 1)",
        MODEL + "test_past_the_end_of_its_count_a_stream_goes_on",
    ),
    Mutant(
        "a kernel's own log-sum-exp in place of the merged one, backward",
        "perceiver_eqx/attention/parts.py",
        "gradients = kernel.backward(*rows, self._causal)",
        "own = kernel.forward(*rows[:3], self._causal)\n"
        "            gradients = kernel.backward(*rows[:3], *own, d_out, "
        "self._causal)",
        PARTS + "test_the_parts_make_the_whole_forward_and_backward",
    ),
    Mutant(
        "squares: what is left beside them dropped",
        "perceiver_eqx/attention/parts.py",
        "key += keys.repeats * size",
        "key += (keys.repeats + 1) * size",
        PARTS + "test_the_squares_cover_each_query_and_key_of_a_step_once",
    ),
    Mutant(
        "queries of some of the steps laid one step late",
        "perceiver_eqx/attention/parts.py",
        "out = jnp.asarray(attend_steps(rows, key, value, sizes, kernel))",
        "rows = jnp.roll(rows, per_step, 0)\n"
        "    out = jnp.asarray(attend_steps(rows, key, value, sizes, kernel))\n"
        "    out = jnp.roll(out, -per_step, 0)",
        PARTS + "test_queries_of_some_of_the_steps",
    ),
    Mutant(
        "pairs of a step: the row itself twice",
        "perceiver_eqx/attention/pairs.py",
        "(column > place if self.after",
        "(column >= place if self.after",
        PARTS + "test_the_parts_make_the_whole_forward_and_backward",
    ),
    Mutant(
        "pairs at the window's edge left out",
        "perceiver_eqx/attention/pairs.py",
        "self.rows_back < rows:",
        "self.rows_back > rows:",
        PARTS + "test_the_parts_make_the_whole_forward_and_backward",
    ),
    Mutant(
        "a head of keys serves other heads of queries",
        "perceiver_eqx/attention/attend.py",
        "jnp.repeat(x, times, axis=1)",
        "jnp.tile(x, (1, times, 1))",
        ATTEND + "test_a_head_of_keys_serves_as_many_heads_of_queries",
    ),
    Mutant(
        "fused prefix: what was seen before a tile a step too young",
        "perceiver_eqx/attention/prefix_kernels.py",
        "since = rows.rate * (rows.step + 1)",
        "since = rows.rate * rows.step",
        FUSED + "test_the_kernels_equal_the_scan_forward_and_backward",
    ),
    Mutant(
        "fused prefix: the token mask ignored",
        "perceiver_eqx/attention/prefix_tiles.py",
        "if self.mask is None else self.mask & self.run.inside",
        "if self.mask is None else self.run.inside",
        FUSED + "test_the_kernels_equal_the_scan_forward_and_backward",
    ),
    Mutant(
        "fused prefix: a token of the next step seen",
        "perceiver_eqx/attention/prefix_tiles.py",
        "jnp.where(age >= 0, -queries.rate",
        "jnp.where(age >= -1, -queries.rate",
        FUSED + "test_the_kernels_equal_the_scan_forward_and_backward",
    ),
    Mutant(
        "fused prefix: cotangents of later segments not passed back",
        "perceiver_eqx/attention/prefix_fused.py",
        "weights = jnp.where(age >= 0, jnp.exp(lse",
        "weights = jnp.where(age == 0, jnp.exp(lse",
        FUSED + "test_the_kernels_equal_the_scan_forward_and_backward",
    ),
    Mutant(
        "streaming: ring one step too short",
        "perceiver_eqx/processor.py",
        "reach = None if window is None else window - 1",
        "reach = None if window is None else max(window - 2, 0)",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "local layers: bytes not counted",
        "perceiver_eqx/adapters/local.py",
        "LocalState(count, caches)",
        "LocalState(state.seen, caches)",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "generation: a byte sees the step before in the place of the byte before",
        "perceiver_eqx/adapters/open_step.py",
        "before = step.features[position - 1]",
        "before = step.features[position]",
        GENERATE + "test_the_most_likely_bytes_are_those_of_full_recomputation",
    ),
    Mutant(
        "norm: the mean taken for a constant by the gradient",
        "perceiver_eqx/norms.py",
        "across = across - d_x.mean(-1, keepdims=True)",
        "across = across * 1.0",
        "tests/test_norms.py::test_a_norm_and_its_derivatives_are_those_of_autodiff",
    ),
    Mutant(
        "norm of keys left out",
        "perceiver_eqx/layers.py",
        "return _normed(self.key_norm, self._heads(self.key(x)))",
        "return self._heads(self.key(x))",
        BYTES + "test_it_is_its_description_written_out_in_float64",
    ),
    Mutant(
        "streaming: a step finished one byte early",
        "perceiver_eqx/adapters/byte_lm.py",
        "finished = first + per_step <= end",
        "finished = first + per_step <= end + 1",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "streaming: bytes of an unfinished step forgotten",
        "perceiver_eqx/adapters/byte_lm.py",
        "begun = jnp.pad(jnp.maximum(state.unfinished, 0), (0, steps * per_step))",
        "begun = jnp.zeros((steps + 1) * per_step, jnp.int32)",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "scoring: one byte after the end counts",
        "perceiver_eqx/score.py",
        "return after, jnp.where(place < count, each, 0.0)",
        "return after, jnp.where(place <= count, each, 0.0)",
        STREAMING + "test_log_prob_is_that_of_the_whole_sequence",
    ),
    Mutant(
        "generation: every step drawn by the same key",
        "perceiver_eqx/generate.py",
        "return Row(end_step(after, step), recent, row.steps + 1), drawn",
        "return Row(end_step(after, step), recent, row.steps), drawn",
        GENERATE + "test_every_step_is_drawn_by_a_key_of_its_own",
    ),
    Mutant(
        "generation: a stop that spans two steps missed",
        "perceiver_eqx/generate.py",
        "max(0, seen - len(one) + 1)",
        "max(0, seen)",
        GENERATE + "test_generation_ends_before_the_first_stop",
    ),
    Mutant(
        "generation: the step before does not reach the latents",
        "perceiver_eqx/adapters/open_step.py",
        "tokens = model.inputs.tokens(state.features[None])",
        "tokens = model.inputs.tokens(0 * state.features[None])",
        GENERATE + "test_the_most_likely_bytes_are_those_of_full_recomputation",
    ),
    Mutant(
        "layers take their windows in another order",
        "perceiver_eqx/processor.py",
        "zip(self.windows, caches, strict=True)",
        "zip(self.windows[::-1], caches, strict=True)",
        MODEL + "test_the_scan_over_layers_with_and_without_remat_is_a_loop_over_them",
    ),
    Mutant(
        "a place reads the latents of another",
        "perceiver_eqx/decoder.py",
        '"t (o d) -> t o d", o=self.num_outputs',
        '"t (d o) -> t o d", o=self.num_outputs',
        MODEL + "test_options_are_the_seed_written_out_literally",
    ),
    Mutant(
        "Muon takes a stack of matrices for one",
        "train/optim.py",
        "reduction_axis=(-2,), output_axis=(-1,)",
        "reduction_axis=(0,), output_axis=(-1,)",
        "tests/train/test_optim.py::"
        "test_muon_makes_every_matrix_of_a_stack_orthogonal_by_itself",
    ),
    Mutant(
        "Muon gives a matrix the update of another of its shape",
        "train/optim.py",
        "places[shape] += count",
        "places[shape] += 0",
        "tests/train/test_optim.py::"
        "test_muon_makes_every_matrix_of_a_stack_orthogonal_by_itself",
    ),
    Mutant(
        "n-grams forget what was before a chunk",
        "perceiver_eqx/adapters/bytes.py",
        "after = jnp.concatenate([before, flat])[flat.size :]",
        "after = before * 1",
        STREAMING + "test_wherever_the_bytes_are_cut_the_logits_are_equal",
    ),
    Mutant(
        "n-grams of another order",
        "perceiver_eqx/adapters/ngrams.py",
        "hashes[back + 1] = mixed",
        "hashes[back] = mixed",
        "tests/test_ngrams.py::"
        "test_ngrams_are_told_apart_by_their_own_bytes_and_by_no_others",
    ),
    Mutant(
        "comparison: a step is seen by the byte that ends it",
        "tests/benchmarks/quality/variants.py",
        "passed = jnp.searchsorted(ends, jnp.arange(count))",
        'passed = jnp.searchsorted(ends, jnp.arange(count), "right")',
        COMPARED + "test_a_byte_is_predicted_from_those_before_it_only",
    ),
    Mutant(
        "comparison: n-grams of a Transformer are not delayed",
        "tests/benchmarks/quality/models.py",
        "late = jnp.concatenate([nothing[:1], data[:-1].astype(nothing.dtype)])",
        "late = data.astype(nothing.dtype)",
        COMPARED + "test_a_byte_is_predicted_from_those_before_it_only",
    ),
    Mutant(
        "comparison: places of the Transformer's cache do not go on",
        "tests/benchmarks/quality/inference.py",
        "return CachedRow(caches, row.seen + 1, row.last), logits",
        "return CachedRow(caches, row.seen, row.last), logits",
        COMPARED
        + "test_the_transformer_generates_from_the_logits_that_it_is_scored_by",
    ),
    Mutant(
        "generation: a row that is done goes on taking room",
        "perceiver_eqx/generate.py",
        "counted = jnp.where(done, 0, rows.state.perceiver.steps)",
        "counted = rows.state.perceiver.steps",
        GENERATE + "test_a_row_that_is_done_needs_no_room_for_the_others",
    ),
    Mutant(
        "bytes that only fill a chunk count",
        "train/loss.py",
        "length = jnp.minimum(length, data.size * devices_in(time))",
        "length = length * 1",
        "tests/train/test_loss.py::test_bytes_past_the_length_do_not_count",
    ),
    Mutant(
        "comparison: devices each go their own way",
        "tests/benchmarks/quality/programs.py",
        "bits, gradient = lax.pmean(",
        "bits, gradient = (lambda x, _: x)(",
        "tests/quality/test_programs.py::test_two_devices_train_and_score_as_one_does",
    ),
    Mutant(
        "dropout: what one branch loses the other loses too",
        "perceiver_eqx/dropout.py",
        "first, second = bits >> 16, bits & 65535",
        "first, second = bits >> 16, bits >> 16",
        "tests/test_dropout.py::"
        "test_dropouts_leave_out_what_they_say_one_apart_from_the_other",
    ),
    Mutant(
        "dropout: none after attention",
        "perceiver_eqx/blocks.py",
        "x = x + drop_attended(joined)",
        "x = x + joined",
        LAYERS + "test_a_block_drops_out_channels_of_either_branch",
    ),
    Mutant(
        "generation: matrices converted to another dtype",
        "perceiver_eqx/adapters/open_step.py",
        "return matrices_in(model.dtype, model)",
        'return matrices_in("float8_e4m3fn", model)',
        GENERATE + "test_in_half_precision_each_byte_is_about_the_likeliest",
    ),
)
