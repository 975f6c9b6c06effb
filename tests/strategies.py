"""Hypothesis strategies. Shapes come from short lists, since each compiles anew."""

from hypothesis import strategies as st

from perceiver_eqx import StepMask


seeds = st.integers(0, 2**31 - 1)
windows = st.sampled_from([None, 1, 2, 3, 7])


@st.composite
def step_masks(draw) -> StepMask:
    """Any sizes, windows and offsets; the sizes are small enough to write out."""
    query_steps = draw(st.integers(1, 6))
    past = draw(st.integers(0, 4))
    return StepMask(
        query_steps,
        query_steps + past,
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(windows),
        past,
        draw(st.integers(0, past)),
    )


@st.composite
def cuts(draw, length: int) -> list[int]:
    """Lengths of chunks that sum to `length`: ones, fours and fives in any order."""
    chunks = []
    while (left := length - sum(chunks)) > 0:
        chunks.append(draw(st.sampled_from([n for n in (1, 4, 5) if n <= left])))
    return chunks
