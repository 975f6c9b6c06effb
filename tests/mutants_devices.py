"""Planted mistakes in what lies over devices; `tests/mutants.py` says what for."""

from tests.planting import Mutant


SHARDING = "tests/train/test_sharding.py::"
ALL = SHARDING + "test_gradients_over_devices_are_those_of_one"
RING = "tests/attention/test_ring.py::test_it_is_causal_attention_forward_and_backward"
FINITE = SHARDING + "test_gradients_over_devices_in_time_are_those_of_one"

MUTANTS = (
    Mutant(
        "time: the first device sees the last one's run of the same round",
        "perceiver_eqx/time_axis.py",
        "jnp.where(first, later, received), received[-1]",
        "received, received[-1]",
        FINITE,
    ),
    Mutant(
        "time: what the last device left behind is not carried on",
        "perceiver_eqx/time_axis.py",
        "jnp.where(first, later, received), received[-1]",
        "jnp.where(first, later, received), carried",
        "tests/test_time_axis.py::test_logits_over_devices_are_those_of_one",
    ),
    Mutant(
        "time: each device counts its own steps alone",
        "perceiver_eqx/time_axis.py",
        "(jnp.arange(self.runs) * self.size + self.index)",
        "(jnp.arange(self.runs) * self.size)",
        FINITE,
    ),
    Mutant(
        "encoder: what other devices saw is as old as the last step",
        "perceiver_eqx/attention/prefix_over.py",
        "merge(_aged(seen, rate, steps), of_device), seen",
        "merge(seen, of_device), seen",
        FINITE,
    ),
    Mutant(
        "encoder: a device sees its own steps twice",
        "perceiver_eqx/attention/prefix_over.py",
        "    after, before = lax.scan(add, start, told)\n",
        "    after, before = lax.scan(add, start, told)\n"
        "    before = jax.tree.map(lambda x: jnp.roll(x, -1, 0), before)\n",
        FINITE,
    ),
    Mutant(
        "encoder: a tile does not age while the next ones are seen",
        "perceiver_eqx/attention/prefix_over.py",
        "merge(_aged(carried, rate, tile), own)",
        "merge(carried, own)",
        "tests/attention/test_prefix_over.py::"
        "test_in_any_tiles_the_total_is_the_last_prefix[True-4]",
    ),
    Mutant(
        "ring: runs of later devices count as earlier, by tiles",
        "perceiver_eqx/attention/ring_parts.py",
        "start = -later.astype(jnp.int32)",
        "start = 0 * later.astype(jnp.int32)",
        RING + "[4-2-tiles]",
    ),
    Mutant(
        "ring: runs of later devices count as earlier, by a kernel",
        "perceiver_eqx/attention/ring_parts.py",
        "later, lambda start: start,",
        "False, lambda start: start,",
        RING + "[4-2-kernel]",
    ),
    Mutant(
        "ring: the last of an odd number of runs sees only the first, by a kernel",
        "perceiver_eqx/attention/ring_parts.py",
        "(runs + 1) * rows, runs * rows, rows, runs * rows)",
        "(runs + 1) * rows, runs * rows, rows, rows)",
        RING + "[2-7-kernel]",
    ),
    Mutant(
        "ring: gradients of keys do not come home",
        "perceiver_eqx/attention/ring.py",
        "d_key, d_value = time.to_next(of_keys)",
        "d_key, d_value = of_keys",
        RING + "[4-2-tiles]",
    ),
    Mutant(
        "ring: what it gives is no part of what is kept",
        "perceiver_eqx/attention/ring.py",
        "return engine.out(kept, dtype), (",
        "return average.value.astype(dtype), (",
        "tests/attention/test_ring.py::"
        "test_a_layer_that_is_computed_again_goes_round_no_more_often",
    ),
    Mutant(
        "ring: the last device's part is left out",
        "perceiver_eqx/attention/ring.py",
        "return add(*carry, last > time.index)",
        "return carry[0]",
        RING + "[4-2-tiles]",
    ),
    Mutant(
        "context: each device counts its runs as the first",
        "perceiver_eqx/adapters/byte_context.py",
        "(jnp.arange(count) * time.size + time.index)",
        "(jnp.arange(count) * time.size)",
        ALL,
    ),
    Mutant(
        "context: what other devices pool is left out",
        "perceiver_eqx/adapters/byte_context.py",
        "seen = merge_all(time.of_all(found.seen))",
        "seen = found.seen",
        ALL,
    ),
    Mutant(
        "context: keys do not know the tokens of the device before",
        "perceiver_eqx/context.py",
        "before, after = time.before(last_of(own, before.shape[0]), before)",
        "after = before",
        ALL,
    ),
    Mutant(
        "context: layers ask the tokens of their device alone",
        "perceiver_eqx/context.py",
        "return ring_ask(queries, self.keys, self.values, self.count, self.time)",
        "return attend(queries, self.keys, self.values)",
        ALL,
    ),
    Mutant(
        "context: a part is taken to hold as many tokens as this device's",
        "perceiver_eqx/attention/ring.py",
        "average = engine.average(query, part, None)\n",
        "average, mine = engine.average(query, part, None), part.there\n"
        "    part = part._replace(there=jnp.full_like(mine, part.key.shape[0]))\n",
        "tests/attention/test_ring.py::test_all_see_the_tokens_that_are_there",
    ),
    Mutant(
        "loss: the bytes of other devices are counted at the places of the first",
        "train/loss.py",
        "indices * time.size + time.index",
        "indices * time.size",
        FINITE,
    ),
    Mutant(
        "model: the parts of a parameter are in the wrong order",
        "perceiver_eqx/mesh.py",
        "axis = part.ndim + parameter.axis",
        "axis = 0",
        ALL,
    ),
    Mutant(
        "rows: all are dropped out alike",
        "train/sharding.py",
        "jr.split(key, len(batch",
        "jr.split(jr.key(0), len(batch",
        SHARDING + "test_rows_over_devices_are_dropped_out_as_on_one",
    ),
)
