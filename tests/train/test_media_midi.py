import struct
from io import BytesIO

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from tests.train.media_files import (
    CHORD,
    music,
    read,
    refused,
    written,
)
from train.data.media import MediaConfig, decode, piano_roll


def test_music_written_by_hand_is_read():
    track = bytes.fromhex(
        "00 90 3c 40"  # middle C on, of channel 1
        "00    40 40"  # E, under the same status
        "60    3c 00"  # a quarter later, C off by no velocity
        "30 80 40 40"  # an eighth later, E off
        "30 ff 2f 00"  # and an eighth of rest
    )
    content = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96)
    content += b"MTrk" + struct.pack(">I", len(track)) + track
    expected = [64, 60, 64, 60, 64, 1, 1, 1]
    assert read(".mid", content, steps_per_quarter=2, voices=2) == bytes(expected)


def rows(content: bytes, voices: int = 2) -> list[list[int]]:
    """The steps of music at 4 ticks to a quarter, of one tick each."""
    data = read(".mid", content, voices=voices)
    return [list(data[at : at + voices]) for at in range(0, len(data), voices)]


def test_tracks_and_channels_sound_together():
    content = music(
        [(0, "on", 60), (2, "off", 60)],
        [(1, "on", 50, 3), (0, "on", 60, 4), (2, "off", 50, 3), (1, "off", 60, 4)],
    )
    assert rows(content) == [[60, 1], [60, 50], [60, 50], [60, 1]]
    content = music(
        [(0, "on", 60), (1, "on", 60, 1), (1, "off", 60, 1), (1, "off", 60)]
    )
    assert rows(content) == 3 * [[60, 1]]


def test_drums_are_left_out():
    content = music(
        [(0, "on", 60), (0, "on", 40, 9), (1, "off", 60), (3, "off", 40, 9)]
    )
    assert rows(content) == [[60, 1], [1, 1], [1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("voices", "expected"),
    [(1, [70]), (2, [70, 50]), (3, [70, 66, 50]), (4, [70, 66, 61, 50])]
    + [(5, [70, 66, 61, 55, 50]), (6, [70, 66, 61, 55, 50, 1])],
)
def test_of_too_many_notes_the_outer_are_kept(voices, expected):
    chord = [(0, "on", note) for note in (55, 70, 50, 66, 61)]
    assert rows(music([*chord, (1, "off", 60)]), voices) == [expected]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(0, "on", 60), (0, "off", 60), (3, "off", 50)], [60, 1, 1]),
        ([(1, "on", 60), (1, "off", 60), (0, "on", 60), (1, "off", 60)], [1, 60, 60]),
        # Struck again before it is released, at the same time or earlier.
        ([(0, "on", 60), (1, "on", 60), (0, "off", 60), (2, "off", 60)], 3 * [60]),
        (
            [(0, "on", 60), (1, "on", 60), (1, "off", 60), (2, "off", 60)],
            [60, 60, 1, 1],
        ),
        ([(1, "on", 60), (3, "off", 50)], [1, 60, 60, 60]),
    ],
)
def test_a_note_sounds_until_it_is_released(events, expected):
    assert [row[0] for row in rows(music(events))] == expected


def test_times_are_of_the_nearest_step():
    # In steps: on at 0.25, off at 1.5; on at 2.5, off at 2.625; the end at 3.375.
    events = [(2, "on", 60), (10, "off", 60), (8, "on", 62), (1, "off", 62)]
    content = music([*events, (6, "off", 0)], ticks=32)
    assert [row[0] for row in rows(content)] == [60, 60, 1, 62]


@refused(
    (music([(0, "on", 1), (1, "off", 1)]), "have notes of 2 to 127, found note 1. Tr"),
    (music([(0, "on", 0), (1, "off", 0)]), "notes of 2 to 127, found note 0"),
    (music([(0, "on", 60, 9)]), "hold a note that is no drum, found none"),
    (music(), "hold a note .*, found none. Save it anew"),
    (music(CHORD, form=2), "be of MIDI format 0 or 1, found 2"),
    (music(CHORD, ticks=-6360), "parts of a quarter, found a division of -6360"),
    (music(CHORD, ticks=0), "parts of a quarter, found a division of 0"),
    (music([(0, "on", 9), (1 + (1 << 20), "off", 9)]), "1048576 .*, found 1048577"),
    (b"no music", "be a whole MIDI file, found MThd not found"),
)
def test_no_music_is_refused(content, message):
    with pytest.raises(ValueError, match=f"some.mid' must .*{message}"):
        read(".mid", content)


@st.composite
def rolls(draw) -> tuple[bytes, dict]:
    """Steps as they are read, one note at least among them."""
    voices = draw(st.integers(1, 5))
    step = st.sets(st.sampled_from([2, 3, 60, 61, 126, 127]), max_size=voices)
    steps = draw(st.lists(step, min_size=1, max_size=12).filter(any))
    data = [bytes(sorted(s, reverse=True)).ljust(voices, b"\1") for s in steps]
    config = {"voices": voices, "steps_per_quarter": draw(st.sampled_from([1, 4, 256]))}
    return b"".join(data), config


@given(rolls())
def test_music_comes_back(roll):
    data, config = roll
    assert read(".mid", written(".mid", data, **config), **config) == data


def test_notes_of_neighbouring_steps_are_held():
    content = written(".mid", bytes([64, 60, 64, 1, 64, 60, 0, 200, 1]), voices=2)
    found = mido.MidiFile(file=BytesIO(content))
    assert found.ticks_per_beat == 4 * 96
    assert [m.tempo for m in found.tracks[0] if m.type == "set_tempo"] == [500_000]
    now, events = 0, []
    for message in found.tracks[0]:
        now += message.time
        if not message.is_meta:
            events.append((now // 96, message.type[5:], message.note))
    assert events == [
        (0, "on", 60),
        (0, "on", 64),
        (1, "off", 60),
        (2, "on", 60),
        (3, "off", 60),
        (3, "off", 64),
    ]
    assert now == 5 * 96


def test_a_piano_roll_is_drawn(monkeypatch, tmp_path):
    data = bytes([64, 60, 64, 1, 0, 200])
    piano_roll(data, tmp_path / "roll.png", MediaConfig(voices=2))
    assert decode(tmp_path / "roll.png", MediaConfig())
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: drawn.append(figure))
    piano_roll(data, tmp_path / "roll.png", MediaConfig(voices=2))
    axes = drawn[0].axes[0]
    dark = np.argwhere(axes.images[0].get_array())
    assert dark.tolist() == [[60, 0], [64, 0], [64, 1]]
    assert axes.get_ylim() == (58.5, 65.5)


def test_a_piano_roll_of_nothing_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="`data` must hold at least one step .*roll.png"
    ):
        piano_roll(b"", tmp_path / "roll.png", MediaConfig())
    piano_roll(b"\1\1", tmp_path / "rest.png", MediaConfig())
