"""Planted mistakes in how a context is read and asked."""

from tests.planting import Mutant


ASK = "perceiver_eqx/context.py"
BOTH = "perceiver_eqx/adapters/both_ways.py"
READ = "perceiver_eqx/adapters/byte_context.py"
CONTEXT = "tests/test_context.py::"
PADDING = CONTEXT + "test_what_fills_up_a_context_changes_nothing"
PIECES = CONTEXT + "test_pieces_are_asked_as_the_whole_is"
LITERAL = "tests/test_model.py::test_it_is_the_seed_written_out_literally"

MUTANTS = (
    Mutant(
        "context: every piece of it placed first",
        "perceiver_eqx/adapters/byte_lm.py",
        "start = state.context_bytes\n            known",
        "start = 0\n            known",
        PIECES,
    ),
    Mutant(
        "context: a token too many asked",
        "perceiver_eqx/attention/masks.py",
        "rows, 1, None, jnp.asarray(count) - 1)",
        "rows, 1, None, jnp.asarray(count))",
        PADDING,
    ),
    Mutant(
        "context: a piece put over the one before",
        ASK,
        "jnp.pad(old, room), new, self.count, 0",
        "jnp.pad(old, room), new, 0, 0",
        PIECES,
    ),
    Mutant(
        "context: no key behind its value",
        ASK,
        "starts = [before.shape[0] - behind for behind in self.behind]",
        "starts = [before.shape[0] for behind in self.behind]",
        LITERAL,
    ),
    Mutant(
        "context: a piece's first keys know nothing of the piece before",
        ASK,
        "after = found[found.shape[0] - before.shape[0] :]",
        "after = before",
        PIECES,
    ),
    Mutant(
        "context: places counted on past its end",
        ASK,
        "left = token_places * memory.total - starts",
        "left = token_places * memory.total + starts",
        CONTEXT + "test_a_step_can_read_on_from_either_end_at_any_length",
    ),
    Mutant(
        "context: questions that do not know their step",
        ASK,
        "self.query(self.norm(x)) + self.place(asked.places)[:, None]",
        "self.query(self.norm(x))",
        LITERAL,
    ),
    Mutant(
        "context: what fills up its last token seen",
        READ,
        "x = jnp.where(there[:, None], features, 0)",
        "x = features",
        PADDING,
    ),
    Mutant(
        "context: what fills it up pooled",
        "perceiver_eqx/encoder.py",
        "mask = None if count is None else (jnp.arange(source.shape[0]) < count)[None]",
        "mask = None",
        PADDING,
    ),
    Mutant(
        "context: what fills it up seen by its tokens",
        BOTH,
        "return layer(x, x, mask=first_keys(size, size, count), key=key)",
        "return layer(x, x, key=key)",
        PADDING,
    ),
    Mutant(
        "context: tokens that see those of other blocks",
        BOTH,
        "size = min(self.block, length)",
        "size = length",
        "tests/test_byte_lm.py::test_it_is_its_description_written_out_in_float64",
    ),
    Mutant(
        "context: pieces cut without regard to blocks",
        READ,
        "context_piece(self.contexts.unit)\n",
        "context_piece(self.contexts.patch)\n",
        CONTEXT + "test_a_long_context_is_read_in_pieces_and_again_backwards",
    ),
    Mutant(
        "context: a long one read as if each piece were whole",
        READ,
        "left = jnp.clip(length - places, 0, size)",
        "left = jnp.full(count, size)",
        CONTEXT + "test_a_long_context_is_read_in_pieces_and_again_backwards",
    ),
)
