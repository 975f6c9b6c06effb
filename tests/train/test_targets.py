import numpy as np
import pytest

from tests.models import byte_lm
from train.data.pairs import Pair
from train.targets import agreement, make_targets, targets_of


def test_errors_are_edits_of_the_closest_target_over_its_words_and_bytes():
    made = [b"a b c", b"a x", b""]
    targets = [[b"a b c"], [b"p q r s", b"a b c"], [b"d e"]]
    found = agreement(made, targets)
    assert found.exact == pytest.approx(1 / 3)
    assert found.word_errors == (0 + 2 + 2) / (3 + 3 + 2)
    assert found.byte_errors == (0 + 3 + 3) / (5 + 5 + 3)
    assert found.sources == 3
    assert 0 < found.chrf < 100


def test_chrf_is_that_of_its_definition():
    """Of one text of four characters, three of them right: the mean over the orders
    of what was made of precision and recall, recall twice as heavy."""
    found = agreement([b"abcd"], [[b"abce"]]).chrf
    shares = np.mean([3 / 4, 2 / 3, 1 / 2, 0])
    assert found == pytest.approx(100 * shares, abs=1e-6)
    assert agreement([b"same"], [[b"same"]]).chrf == 100


def test_nothing_is_no_agreement():
    with pytest.raises(ValueError, match="`made` must hold at least one target"):
        agreement([], [])


def test_sources_of_any_number_are_answered_in_their_order():
    """Each as by itself, whatever stands beside it."""
    model = byte_lm(3, True, num_layers=1)
    sources = [b"longest of all of them", b"a", b"", b"bcd", b"e"]
    made = make_targets(model, sources, num_bytes=5, batch_size=2)
    assert len(set(made)) > 1
    for source, one in zip(sources, made, strict=True):
        assert [one] == make_targets(model, [source], num_bytes=5, batch_size=2)
    stop = made[0][2:3]
    assert make_targets(model, sources[:1], num_bytes=5, stop=stop, batch_size=2) == [
        made[0][: made[0].index(stop)]
    ]


def test_a_source_stands_once_with_all_its_targets():
    pairs = [Pair(b"x", b"1"), Pair(b"y", b"2"), Pair(b"x", b"3")]
    assert targets_of(pairs) == {b"x": [b"1", b"3"], b"y": [b"2"]}
