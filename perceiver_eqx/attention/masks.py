"""Who may see whom: structured masks, written out only where they are needed."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Mask(eqx.Module):
    """What an attention engine asks of a mask.

    `allows` decides single pairs; the two ranges bound, for a run of rows, the columns
    that can be allowed at all (and the reverse), so that an engine skips the rest.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""

    @abc.abstractmethod
    def allows(
        self, rows: Int[Array, " rows"], columns: Int[Array, " columns"]
    ) -> Bool[Array, "rows columns"]:
        """Whether each of `rows` sees each of `columns` (indices from 0)."""

    @abc.abstractmethod
    def columns_of(self, first_row, last_row) -> tuple:
        """Half-open range that holds all columns seen by `first_row..last_row`."""

    @abc.abstractmethod
    def rows_of(self, first_column, last_column) -> tuple:
        """Half-open range that holds all rows that see one of these columns."""


class StepMask(Mask):
    """A causal mask between steps: row `(t, c)` sees column `(u, i)` iff
    `0 <= t - u < window`, whatever `c` and `i`.

    Rows and columns are grouped by step: `queries_per_step` rows and `keys_per_step`
    columns each.

    Args:
        query_steps, key_steps: numbers of steps, at least 1.
        queries_per_step, keys_per_step: rows and columns of a step, at least 1.
        window: how many steps a row sees, its own included; `None` for all before it.
        query_start: the key step at which the first query step stands. Not 0 when past
            keys come before the queries' own, as in streaming. May be traced. The last
            query step must stand at a key step too.
        key_start: key steps before this one hold nothing. May be traced.

    Raises:
        ValueError: for a size or window below 1, or query steps past the last key step
            (not seen where `query_start` is traced).

    Source:
        the seed's `tril(ones((C, C, T, T)))`, rearranged to
        `(t1 c) (t2 e)`, is `StepMask(T, T, C, C).dense()`.
    """

    query_steps: int = eqx.field(static=True)
    key_steps: int = eqx.field(static=True)
    queries_per_step: int = eqx.field(static=True)
    keys_per_step: int = eqx.field(static=True)
    window: int | None = eqx.field(static=True, default=None)
    query_start: int | Int[Array, ""] = 0
    key_start: int | Int[Array, ""] = 0

    def __check_init__(self):
        sizes = {
            "query_steps": self.query_steps,
            "key_steps": self.key_steps,
            "queries_per_step": self.queries_per_step,
            "keys_per_step": self.keys_per_step,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}.")
        if self.window is not None and self.window < 1:
            raise ValueError(
                f"`window` must be at least 1 step (the own one), got {self.window}; "
                "pass None to see every step before."
            )
        start = self.query_start
        if isinstance(start, int) and start + self.query_steps > self.key_steps:
            raise ValueError(
                "`query_steps` from `query_start` on must be key steps, got "
                f"{self.query_steps} from {start} on, of {self.key_steps} `key_steps`."
            )

    def __repr__(self) -> str:
        window = "all" if self.window is None else f"a window of {self.window}"
        start = self.query_start
        first = f", from step {start} on" if isinstance(start, int) and start else ""
        return (
            f"StepMask: {self.query_steps} steps of {self.queries_per_step} rows see "
            f"{window} of {self.key_steps} steps of {self.keys_per_step} columns{first}"
        )

    @property
    def shape(self) -> tuple[int, int]:
        return (
            self.query_steps * self.queries_per_step,
            self.key_steps * self.keys_per_step,
        )

    def allows(
        self, rows: Int[Array, " rows"], columns: Int[Array, " columns"]
    ) -> Bool[Array, "rows columns"]:
        query_step = rows[:, None] // self.queries_per_step + self.query_start
        key_step = columns[None, :] // self.keys_per_step
        allowed = (key_step <= query_step) & (key_step >= self.key_start)
        if self.window is not None:
            allowed &= query_step - key_step < self.window
        return allowed

    def columns_of(self, first_row, last_row) -> tuple:
        first = self.key_start
        if self.window is not None:
            oldest = first_row // self.queries_per_step + self.query_start
            first = jnp.maximum(first, oldest - self.window + 1)
        stop = last_row // self.queries_per_step + self.query_start + 1
        return _token_range(first, stop, self.key_steps, self.keys_per_step)

    def rows_of(self, first_column, last_column) -> tuple:
        first = first_column // self.keys_per_step - self.query_start
        stop = self.query_steps
        if self.window is not None:
            newest = last_column // self.keys_per_step - self.query_start
            stop = jnp.minimum(stop, newest + self.window)
        return _token_range(first, stop, self.query_steps, self.queries_per_step)

    def dense(self) -> Bool[Array, "q_len kv_len"]:
        """The mask written out: true where the row may see the column."""
        rows, columns = self.shape
        return self.allows(jnp.arange(rows), jnp.arange(columns))


def first_keys(rows: int, columns: int, count: Int[Array, ""] | int) -> StepMask:
    """All rows see the first `count` columns, and no other: one step of rows, which
    stands at the last of them. Engines need not look at the columns one by one."""
    return StepMask(1, columns, rows, 1, None, jnp.asarray(count) - 1)


class DenseMask(Mask):
    """Any Boolean mask, true where the row may see the column."""

    allowed: Bool[Array, "q_len kv_len"]

    @property
    def shape(self) -> tuple[int, int]:
        q_len, kv_len = self.allowed.shape
        return q_len, kv_len

    def allows(self, rows, columns):
        # Engines pad their tiles: indices past the end are cut off there.
        return self.allowed[rows][:, columns]

    def columns_of(self, first_row, last_row) -> tuple:
        return 0, self.shape[1]

    def rows_of(self, first_column, last_column) -> tuple:
        return 0, self.shape[0]


class KeyMask(Mask):
    """Every row sees the same columns, those where `allowed` is true."""

    q_len: int = eqx.field(static=True)
    allowed: Bool[Array, " kv_len"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.q_len, self.allowed.shape[0]

    def allows(self, rows, columns):
        return jnp.broadcast_to(self.allowed[columns], (rows.size, columns.size))

    def columns_of(self, first_row, last_row) -> tuple:
        return 0, self.shape[1]

    def rows_of(self, first_column, last_column) -> tuple:
        return 0, self.shape[0]


class FullMask(Mask):
    """Every row sees every column."""

    q_len: int = eqx.field(static=True)
    kv_len: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        return self.q_len, self.kv_len

    def allows(self, rows, columns):
        return jnp.ones((rows.size, columns.size), bool)

    def columns_of(self, first_row, last_row) -> tuple:
        return 0, self.kv_len

    def rows_of(self, first_column, last_column) -> tuple:
        return 0, self.q_len


def _token_range(first, stop, steps: int, per_step: int) -> tuple:
    first, stop = (
        jnp.clip(jnp.asarray(step, jnp.int32), 0, steps) * per_step
        for step in (first, stop)
    )
    return first, stop
