"""Music as bytes: one step after the other, each of the notes that sound in it."""

from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool

from .config import MediaConfig
from .errors import Refused, package, reading


if TYPE_CHECKING:
    import mido

_NO_NOTE = b"\1"
_NOTES = range(2, 128)
# Channel 10, counted from 0.
_DRUMS = 9
_TICKS_OF_STEP = 96
# Microseconds of a quarter: 120 a minute.
_TEMPO = 500_000
# Days of music. A damaged file can state years, which no memory holds.
_MOST_STEPS = 1 << 20
_ANEW = "Save it anew from a notation program, or leave it out."


class _Note(NamedTuple):
    pitch: int
    start: int
    end: int


def decode_midi(path: Path, media: MediaConfig) -> bytes:
    """The notes of each step, from the highest to the lowest, in `voices` bytes.

    A note sounds from the step nearest to its start up to that nearest to its end, for
    one step at least; one that is never released, to the end of its track. Where a step
    has too few notes, 1 stands for each that is missing; of too many the lowest is kept
    and, of the others, the highest. Loudness, tempo, pedals, instruments and channel
    10, the drums, are left out, and so is where a note is struck again without a rest.

    Raises:
        ValueError: a broken file, or one of format 2, of times that are no parts of a
            quarter, of no note, of notes 0 or 1, or too long.
    """
    file = _read(path)

    def step(ticks: int) -> int:
        double = 2 * ticks * media.steps_per_quarter + file.ticks_per_beat
        return double // (2 * file.ticks_per_beat)

    notes = [
        _Note(pitch, step(start), max(step(end), step(start) + 1))
        for track in file.tracks
        for pitch, start, end in _notes(track)
    ]
    _check_notes(path, notes)
    ends = [step(sum(message.time for message in track)) for track in file.tracks]
    length = max(*ends, *(note.end for note in notes))
    if length > _MOST_STEPS:
        raise Refused(path, f"have at most {_MOST_STEPS} steps", str(length), _ANEW)
    roll = np.zeros((length, _NOTES.stop), np.bool_)
    for note in notes:
        roll[note.start : note.end, note.pitch] = True
    return b"".join(_bytes_of_step(sounding, media.voices) for sounding in roll)


def _read(path: Path) -> "mido.MidiFile":
    with package("mido"):
        import mido

    with reading(path, "be a whole MIDI file", _ANEW):
        file = mido.MidiFile(path)
    if file.type not in (0, 1):
        raise Refused(path, "be of MIDI format 0 or 1", str(file.type), _ANEW)
    if file.ticks_per_beat < 1:
        found = f"a division of {file.ticks_per_beat}"
        raise Refused(path, "count time in parts of a quarter", found, _ANEW)
    return file


def _notes(track: "mido.MidiTrack") -> Iterator[_Note]:
    """The notes of a track, but drums, in ticks."""
    now, sounding = 0, {}
    for message in track:
        now += message.time
        if message.type not in ("note_on", "note_off") or message.channel == _DRUMS:
            continue
        key = message.note, message.channel
        first, latest = sounding.pop(key, (now, None))
        if message.type == "note_on" and message.velocity:
            sounding[key] = first, now
        elif latest is not None:
            yield _Note(message.note, first, now)
            # Some files strike a note again before they release it, at the same time.
            if first < latest == now:
                sounding[key] = now, now
    for (pitch, _), (first, _) in sounding.items():
        yield _Note(pitch, first, now)


def _check_notes(path: Path, notes: list[_Note]) -> None:
    if not notes:
        raise Refused(path, "hold a note that is no drum", "none", _ANEW)
    lowest = min(note.pitch for note in notes)
    if lowest not in _NOTES:
        remedy = "Transpose it, or take the note out: bytes 0 and 1 stand for no note."
        raise Refused(path, "have notes of 2 to 127", f"note {lowest}", remedy)


def _bytes_of_step(sounding: Bool[np.ndarray, " pitches"], voices: int) -> bytes:
    notes = np.flatnonzero(sounding)[::-1].tolist()
    del notes[max(voices - 1, 1) : -1]
    return bytes(notes[:voices]).ljust(voices, _NO_NOTE)


def _notes_of_steps(data: bytes, voices: int) -> list[set[int]]:
    return [
        {note for note in data[at : at + voices] if note in _NOTES}
        for at in range(0, len(data), voices)
    ]


def encode_midi(data: bytes, media: MediaConfig) -> bytes:
    """A MIDI file of one track, with notes held as long as steps in a row have them."""
    with package("mido"):
        import mido

    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=_TEMPO)])
    wait = 0
    steps = _notes_of_steps(data, media.voices)
    for before, now in pairwise([set(), *steps, set()]):
        for kind, notes in (("note_off", before - now), ("note_on", now - before)):
            for note in sorted(notes):
                track.append(mido.Message(kind, note=note, time=wait))
                wait = 0
        wait += _TICKS_OF_STEP
    track.append(mido.MetaMessage("end_of_track", time=wait - _TICKS_OF_STEP))
    buffer = BytesIO()
    ticks_per_beat = _TICKS_OF_STEP * media.steps_per_quarter
    mido.MidiFile(tracks=[track], ticks_per_beat=ticks_per_beat).save(file=buffer)
    return buffer.getvalue()


def piano_roll(data: bytes, path: Path, media: MediaConfig) -> None:
    """Draws the notes of steps, pitch against step.

    Args:
        data: at least one byte, as `decode` gives them of a MIDI file.
        path: the picture, of a kind that matplotlib knows by its suffix.
        media: what the bytes are.

    Raises:
        OSError: the picture may not be written.
        ValueError: `data` is empty, matplotlib knows no such kind, or it is missing.
    """
    with package("matplotlib"):
        from matplotlib.figure import Figure

    if not data:
        raise ValueError(f"`data` must hold at least one step to draw {str(path)!r}.")
    steps = _notes_of_steps(data, media.voices)
    roll = np.zeros((_NOTES.stop, len(steps)), np.bool_)
    for at, notes in enumerate(steps):
        roll[list(notes), at] = True
    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(roll, cmap="Greys", origin="lower", aspect="auto", vmin=0, vmax=1)
    pitches = np.flatnonzero(roll.any(axis=1))
    if pitches.size:
        axes.set_ylim(pitches.min() - 1.5, pitches.max() + 1.5)
    axes.set(xlabel=f"step, {media.steps_per_quarter} of a quarter", ylabel="note")
    figure.savefig(path)
