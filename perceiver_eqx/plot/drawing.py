"""What all pictures share: colours, axes, and the numbers of steps along them."""

from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis


# Blue and orange are told apart by all kinds of colour vision; marks say it again.
SEEN, UNSEEN, PAST, CONTEXT = "#08306b", "#e6e6e6", "#fdd0a2", "#2171b5"
BLUES, ORANGES = ("#c6dbef", SEEN), ("#fee6ce", "#e6550d")
MOST_LABELS = 12  # of an axis: more do not fit


def new_axes() -> "matplotlib.axes.Axes":
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").subplots()


def number(axis: "matplotlib.axis.Axis", text: str, length, per_step=1, first=0):
    """Number the steps of an axis and, where they fit, the rows or columns in each."""
    steps = np.arange(0, length // per_step, -(-length // per_step // MOST_LABELS))
    axis.set_label_text(text)
    axis.set_ticks((steps + 0.5) * per_step - 0.5, [str(first + t) for t in steps])
    if 1 < per_step and length <= 3 * MOST_LABELS:
        axis.remove_overlapping_locs = False
        inside = [str(i % per_step) for i in range(length)]
        axis.set_ticks(np.arange(length), inside, minor=True)
        axis.set_tick_params(which="minor", length=0, labelsize="x-small")
        axis.set_tick_params(which="major", length=0, pad=14)
