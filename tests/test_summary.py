"""A line and a tree say what a model has."""

from html.parser import HTMLParser

import jax
import jax.random as jr
import pytest

import perceiver_eqx as pqx
from perceiver_eqx.summary import as_html, parts_of
from tests.models import byte_lm, perceiver


class Reader(HTMLParser):
    """Keeps the text of a page, and that every tag is closed where it was opened."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(html: str) -> str:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader.text


def test_the_parts_of_a_model_are_all_there_with_their_numbers():
    model = byte_lm(3, context=True)
    whole = parts_of(model)
    assert whole.numbers == sum(x.size for x in jax.tree.leaves(model))
    assert whole.parts[0].name == "inputs"
    assert whole.numbers == sum(part.numbers for part in whole.parts)
    inner = next(part for part in whole.parts if part.name == "perceiver")
    encoder = next(part for part in inner.parts if part.name == "encoder")
    assert encoder.shapes["latents"] == model.perceiver.encoder.latents.shape
    assert not encoder.parts


def test_a_model_is_told_in_a_line_and_as_a_tree():
    model = perceiver(2)
    numbers = sum(x.size for x in jax.tree.leaves(model))
    line = repr(model)
    assert line.startswith(f"CausalPerceiver: {numbers:,} parameters: encoder ")
    assert "\n" not in line
    text = read(model._repr_html_())
    assert f"CausalPerceiver {numbers:,} parameters" in text
    assert "latents: " not in text
    assert "processor: CausalProcessor" in text


def test_a_state_is_told_with_all_that_it_holds():
    state = perceiver(2).init_state()
    numbers = sum(x.size for x in jax.tree.leaves(state))
    assert repr(state).startswith(f"PerceiverState: {numbers:,} numbers: ")
    assert "caches[0]: LayerCache" in read(state._repr_html_())


def test_streams_are_told_by_name_and_names_are_no_html():
    stream = pqx.SymbolInput(3, 4, key=jr.key(0)), pqx.SymbolOutput(3)
    sizes = {"num_latents": 1, "latent_dim": 8, "num_layers": 1, "num_heads": 1}
    model = pqx.StreamModel(
        inputs={"<b>": stream[0]}, outputs={"<b>": stream[1]}, **sizes, key=jr.key(1)
    )
    html = as_html(parts_of(model))
    assert "<b>'" not in html
    assert "['<b>']" in read(html)


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        (
            pqx.StepMask(3, 3, 2, 4),
            "StepMask: 3 steps of 2 rows see all of 3 steps of 4 columns",
        ),
        (
            pqx.StepMask(2, 5, 1, 1, 3, 2),
            "StepMask: 2 steps of 1 rows see a window of 3 of 5 steps of 1 columns, "
            "from step 2 on",
        ),
    ],
)
def test_a_mask_is_told_in_a_line(mask, line):
    assert repr(mask) == line
