import math
import struct
import sys
import warnings
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import mido
import numpy as np
import PIL.Image
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from train.data.media import MediaConfig, decode, encode, piano_roll
from train.data.media.audio import from_mu_law, mu_law


def read(suffix: str, content: bytes, **config) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"some{suffix}")
        path.write_bytes(content)
        return decode(path, MediaConfig(**config))


def written(suffix: str, data: bytes, **config) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, f"some{suffix}")
        encode(data, path, MediaConfig(**config))
        return path.read_bytes()


def wav(
    samples: list[int], channels: int = 1, rate: int = 8000, form: int = 1
) -> bytes:
    data = struct.pack(f"<{len(samples)}h", *samples)
    of_sample = 2 * channels
    about = struct.pack(
        "<HHIIHH", form, channels, rate, rate * of_sample, of_sample, 16
    )
    chunks = b"WAVEfmt " + struct.pack("<I", len(about)) + about
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def sound(samples, form: str, kind: str, rate: int = 8000) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, np.asarray(samples), rate, kind, format=form)
    return buffer.getvalue()


def picture(pixels, form: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    if not isinstance(pixels, PIL.Image.Image):
        pixels = PIL.Image.fromarray(np.array(pixels, np.uint8))
    pixels.save(buffer, form, **options)
    return buffer.getvalue()


def music(*tracks: list[tuple], ticks: int = 4, form: int = 1) -> bytes:
    """Of events: ticks since the one before, on or off, note, and channel if not 0."""
    made = mido.MidiFile(type=form, ticks_per_beat=ticks)
    for track in tracks:
        made.add_track().extend(
            mido.Message(f"note_{kind}", note=note, time=wait, channel=sum(channel))
            for wait, kind, note, *channel in track
        )
    buffer = BytesIO()
    made.save(file=buffer)
    return buffer.getvalue()


def array(numbers, dtype) -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.array(numbers, dtype))
    return buffer.getvalue()


TONE = 0.5 * np.sin(np.arange(400) / 9)
RED_AND_GREEN = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [1, 2, 3]]]
CHORD = [(0, "on", 60), (0, "on", 64), (4, "off", 60), (4, "off", 64)]
WHOLE = {
    ".wav": wav([0, 1000, -1000, 9, 8, 7]),
    ".flac": sound(TONE, "FLAC", "PCM_16"),
    ".ogg": sound(TONE, "OGG", "VORBIS"),
    ".opus.ogg": sound(TONE, "OGG", "OPUS"),
    ".png": picture(RED_AND_GREEN),
    ".jpg": picture(np.arange(768).reshape(16, 16, 3), "JPEG"),
    ".jpeg": picture(np.arange(768).reshape(16, 16, 3), "JPEG", progressive=True),
    ".mid": music(CHORD, CHORD),
    ".npy": array(range(9), np.int16),
}
whole = pytest.mark.parametrize("suffix", WHOLE)
checked = pytest.mark.parametrize("suffix", [".flac", ".ogg", ".opus.ogg", ".png"])


def refused(*cases: tuple[bytes, str]):
    """Contents and what is said of them, which names the tests: an Ogg file has a
    random number in it, and names must be the same in all workers."""
    names = [message for _, message in cases]
    return pytest.mark.parametrize(("content", "message"), cases, ids=names)


# Of all files.


def test_other_files_are_read_and_written_as_they_are():
    assert read(".txt", b"\0text") == b"\0text"
    assert read("", b"text") == written("", b"text") == b"text"


@whole
def test_capitals_of_a_suffix_change_nothing(suffix):
    assert read(suffix.upper(), WHOLE[suffix]) == read(suffix, WHOLE[suffix])


@pytest.mark.parametrize("suffix", [*WHOLE, ".txt"])
def test_an_empty_file_is_refused(suffix):
    with pytest.raises(
        ValueError, match=f"some{suffix}' must hold .* byte, found none"
    ):
        read(suffix, b"")


@whole
def test_a_file_cut_short_anywhere_is_refused(suffix):
    content = WHOLE[suffix]
    # Only the checksum of nothing follows the word that ends a PNG.
    last = len(content) - (5 if suffix == ".png" else 1)
    for length in np.unique(np.linspace(1, last, 60).astype(int)):
        with pytest.raises(
            ValueError, match=f"some{suffix}' must be a whole .*, found"
        ):
            read(suffix, content[:length])


@checked
def test_damage_to_a_file_with_checksums_is_refused(suffix):
    content, rng = WHOLE[suffix], np.random.default_rng(0)
    before = read(suffix, content)
    for at in rng.integers(len(content), size=150):
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.integers(8)
        try:
            assert read(suffix, bytes(damaged)) == before
        except ValueError as error:
            assert "must be a whole" in str(error)  # noqa: PT017


@whole
@settings(max_examples=100)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_whatever_is_damaged_is_bytes_or_refused(suffix, random, times):
    content = bytearray(WHOLE[suffix])
    for _ in range(times):
        content[random.randrange(len(content))] = random.randrange(256)
    try:
        assert read(suffix, bytes(content))
    except ValueError as error:
        assert f"some{suffix}' must " in str(error)  # noqa: PT017


def test_a_missing_file_and_a_folder_are_errors_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "none.wav", MediaConfig())
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError):
        decode(tmp_path / "folder.png", MediaConfig())


@pytest.mark.parametrize(
    ("module", "suffix", "name"),
    [("soundfile", ".wav", "soundfile"), ("PIL", ".png", "Pillow")]
    + [("mido", ".mid", "mido")],
)
def test_a_missing_package_is_named(monkeypatch, module, suffix, name):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "PIL":
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ValueError, match=f"package {name} .* pip install {name}`"):
        read(suffix, WHOLE[suffix])
    with pytest.raises(ValueError, match=f"package {name} .* pip install {name}`"):
        written(suffix, b"abcd", image_size=(1, 1))


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        (".txt", b"", "`data` must hold at least one byte .*some.txt"),
        (".flac", b"a", r"`path` must have a suffix .*'.wav', '.png'.*some.flac"),
        (".JPG", b"a", "`path` must have a suffix .*some.JPG"),
        (".png", b"a", "`image_size` must be a height and a width .* got None"),
    ],
)
def test_what_cannot_be_written_is_refused(suffix, data, message):
    with pytest.raises(ValueError, match=message):
        written(suffix, data)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sample_rate": 0}, "`sample_rate` must be between 1 and 16777216, got 0"),
        ({"steps_per_quarter": 257}, "`steps_per_quarter` .* 1 and 256, got 257"),
        ({"voices": 0}, "`voices` must be between 1 and 126, got 0"),
        ({"image_size": (4, 0)}, r"`image_size` must be .* got \(4, 0\)"),
    ],
)
def test_a_config_out_of_range_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        MediaConfig(**config)


# Sound.


def test_mu_law_is_that_of_the_formula():
    def code(x: float) -> int:
        loudness = math.copysign(math.log(1 + 255 * abs(x)) / math.log(256), x)
        return min(range(256), key=lambda n: abs(n - 127.5 - 127.5 * loudness))

    samples = np.linspace(-1, 1, 4000)
    assert mu_law(samples).tolist() == [code(x) for x in samples]
    assert mu_law(np.array([-1.0, -0.0, 0.0, 1.0])).tolist() == [0, 128, 128, 255]


def test_levels_of_mu_law_are_those_of_the_formula():
    expected = [
        math.copysign((256 ** abs(n / 127.5 - 1) - 1) / 255, n - 127.5)
        for n in range(256)
    ]
    found = from_mu_law(np.arange(256).astype(np.uint8))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(st.floats(-1, 1))
@example(0.0)
def test_mu_law_is_off_by_half_a_level_at_most(x):
    back = from_mu_law(mu_law(np.array([x])))[0]
    slope = math.log(256) * (1 / 255 + max(abs(x), abs(back)))
    assert abs(back - x) <= slope / 255 * (1 + 1e-12)


def test_every_byte_of_mu_law_comes_back_from_a_file():
    data = bytes(range(256))
    assert read(".wav", written(".wav", data)) == data


def test_two_bytes_of_a_sample_are_offset_binary():
    content = wav([0, 1, -1, -32768, 32767])
    expected = bytes.fromhex("8000 8001 7fff 0000 ffff")
    assert read(".wav", content, audio="16-bit") == expected


@given(st.binary(min_size=2, max_size=40))
def test_two_bytes_of_a_sample_come_back_from_a_file(data):
    config = {"audio": "16-bit", "sample_rate": 44100}
    back = read(".wav", written(".wav", data, **config), **config)
    assert back == data[: len(data) // 2 * 2]


def test_half_a_sample_is_not_written():
    with pytest.raises(ValueError, match="a sample of two bytes, got 1"):
        written(".wav", b"a", audio="16-bit")


def test_channels_are_averaged():
    content = wav([100, 301, 402, -1, 0, 0], channels=3)
    assert read(".wav", content, audio="16-bit") == bytes.fromhex("810c 8000")


def test_sound_is_the_same_from_other_files():
    expected = np.rint(TONE * 2**15) + 2**15
    for suffix, most in ((".flac", 1), (".ogg", 2500), (".opus.ogg", 2500)):
        data = read(suffix, WHOLE[suffix], audio="16-bit")
        found = np.frombuffer(data, ">u2").astype(int)
        assert found.shape == TONE.shape
        assert abs(found - expected).max() <= most


def test_long_sound_is_read_in_blocks(monkeypatch):
    expected = read(".flac", WHOLE[".flac"])
    monkeypatch.setattr("train.data.media.audio._BLOCK", 7)
    assert read(".flac", WHOLE[".flac"]) == expected


def test_another_rate_is_refused():
    content = wav([1, 2], rate=44100)
    assert read(".wav", content, sample_rate=44100) == read(".wav", content)
    with pytest.raises(
        ValueError, match="^[^ ]* must have 8000 .* found 44100. Resamp"
    ):
        read(".wav", content, sample_rate=8000)


@pytest.mark.parametrize(("rate", "expected"), [(None, 8000), (16000, 16000)])
def test_a_rate_is_written(rate, expected):
    content = written(".wav", b"sound", sample_rate=rate)
    found = soundfile.info(BytesIO(content))
    assert (found.samplerate, found.subtype, found.frames) == (expected, "PCM_16", 5)


def test_what_is_too_loud_is_cut():
    content = sound([2.0, -2.0, 0.0], "WAV", "FLOAT")
    assert read(".wav", content) == bytes([255, 0, 128])
    assert read(".wav", content, audio="16-bit") == bytes.fromhex("ffff 0000 8000")


@refused(
    (wav([]), "hold at least one sample, found none"),
    (wav([1], form=0x9999), "be a whole file of WAV, FLAC or Ogg, found"),
    (sound([0.0, np.nan], "WAV", "FLOAT"), "have finite samples, found NaN"),
    (sound([0.0], "AIFF", "PCM_16"), "be .* found a file that begins with b'FORM'"),
    (wav([1, 2])[:40] + b"\5" + wav([1, 2])[41:], "be .* byte 50 of the 48"),
    (WHOLE[".ogg"][:58], "be .* found a last page of Ogg that is not the end"),
    (WHOLE[".ogg"][:68], "be .* found no page of Ogg at byte 58"),
)
def test_no_sound_is_refused(content, message):
    with pytest.raises(ValueError, match=f"^[^ ]*some.wav' must {message}"):
        read(".wav", content)


def test_a_missing_page_of_ogg_is_refused():
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000)
    _, *pages = sound(noise, "OGG", "VORBIS").split(b"OggS")
    assert len(pages) > 3
    with pytest.raises(ValueError, match="a page of Ogg missing before byte"):
        read(".ogg", b"".join(b"OggS" + page for page in pages[:2] + pages[3:]))


def test_the_byte_that_makes_a_chunk_even_may_be_uncounted():
    odd = bytearray(sound([0.25, 0.5, 0.75], "WAV", "PCM_U8"))
    expected = read(".wav", bytes(odd))
    odd[4:8] = struct.pack("<I", len(odd) - 9)
    assert read(".wav", bytes(odd[:-1])) == expected


# Pictures.


def test_pixels_are_red_green_and_blue_from_the_top():
    expected = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3])
    assert read(".png", picture(RED_AND_GREEN)) == expected


def test_gray_is_the_brightness():
    # 299, 587 and 114 thousandths.
    content = picture(RED_AND_GREEN)
    assert read(".png", content, gray=True) == bytes([76, 150, 29, 2])


def test_a_jpeg_is_read_to_a_few_levels():
    data = read(".jpg", picture(np.full((8, 8, 3), (200, 100, 50)), "JPEG"))
    found = np.frombuffer(data, np.uint8).reshape(64, 3).astype(int)
    assert abs(found - (200, 100, 50)).max() <= 3


def test_what_is_transparent_is_black():
    half = np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 51]]])
    expected = bytes([0, 0, 0, 200, 100, 50, 40, 20, 10])
    assert read(".png", picture(half)) == expected
    table = PIL.Image.new("P", (2, 1))
    table.putpalette([200, 100, 50, 9, 8, 7])
    table.putpixel((1, 0), 1)
    content = picture(table, transparency=0)
    assert read(".png", content) == bytes([0, 0, 0, 9, 8, 7])


def test_of_sixteen_bits_the_higher_are_taken():
    deep = PIL.Image.fromarray(np.array([[0x12FF, 0x0001, 0xFEDC]], np.uint16))
    assert read(".png", picture(deep), gray=True) == bytes([0x12, 0, 0xFE])
    assert read(".png", picture(deep)) == bytes(3 * [0x12] + 3 * [0] + 3 * [0xFE])


def test_a_picture_is_turned_upright():
    about = PIL.Image.Exif()
    about[0x0112] = 6  # to be turned clockwise
    content = picture([[1, 2, 3], [4, 5, 6]], exif=about)
    assert read(".png", content, gray=True) == bytes([4, 1, 5, 2, 6, 3])
    assert read(".png", content, gray=True, image_size=(3, 1)) == bytes([3, 4, 5])


def test_a_picture_is_resized_by_the_mean():
    pixels = [[0, 4, 10, 10], [8, 12, 30, 30], [1, 1, 2, 2], [1, 1, 2, 2]]
    content = picture(pixels)
    assert read(".png", content, gray=True, image_size=(2, 2)) == bytes([6, 20, 1, 2])
    assert len(read(".png", content, image_size=(5, 3))) == 45


@pytest.mark.parametrize("most", [3, 1])
def test_a_picture_of_too_many_pixels_is_refused(monkeypatch, most):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"some.png' .* \(4 pixels\) exceeds"):
            read(".png", picture(RED_AND_GREEN))


def test_another_picture_under_this_suffix_is_refused():
    with pytest.raises(ValueError, match="be a whole file of PNG or JPEG, found"):
        read(".png", picture(RED_AND_GREEN, "BMP"))
    assert read(".jpg", picture(RED_AND_GREEN)) == read(".png", picture(RED_AND_GREEN))


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 9))
def test_a_picture_comes_back(height, width, gray, seed):
    config = {"image_size": (height, width), "gray": gray}
    data = np.random.default_rng(seed).bytes(height * width * (1 if gray else 3))
    content = written(".png", data, **config)
    assert read(".png", content, **config) == data
    assert read(".png", content, gray=gray) == data


def test_pictures_are_a_grid():
    config = {"image_size": (1, 2), "gray": True}
    content = written(".png", bytes(range(1, 10)), **config)
    # 1 2 | 3 4 | 5 6, then 7 8 | 9 and what is missing.
    found = PIL.Image.open(BytesIO(content))
    assert found.size == (6, 2)
    assert np.asarray(found).tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0]]


def test_a_grid_ends_with_the_64th_picture():
    content = written(".png", bytes(range(100)), image_size=(1, 1), gray=True)
    assert read(".png", content, gray=True) == bytes(range(64))
    content = written(".png", bytes(range(99)), image_size=(1, 1))
    assert PIL.Image.open(BytesIO(content)).size == (6, 6)


# Music.


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


# Arrays.


@pytest.mark.parametrize(
    ("numbers", "dtype", "expected"),
    [
        ([0, 127, 255], np.uint8, "00 7f ff"),
        ([-128, -1, 0, 127], np.int8, "00 7f 80 ff"),
        ([-32768, -1, 0, 258], "<i2", "0000 7fff 8000 8102"),
        ([-32768, -1, 0, 258], ">i2", "0000 7fff 8000 8102"),
        ([True, False], np.bool_, "01 00"),
        ([[1, 2, 3], [4, 5, 6]], np.uint8, "01 02 03 04 05 06"),
        (7, np.uint8, "07"),
    ],
)
def test_numbers_are_bytes(numbers, dtype, expected):
    assert read(".npy", array(numbers, dtype)) == bytes.fromhex(expected)


@pytest.mark.parametrize(("dtype", "first"), [(np.uint8, 0), (np.int8, 128)])
def test_numbers_are_read_by_rows_however_they_lie(dtype, first):
    buffer = BytesIO()
    np.save(buffer, np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)))
    assert read(".npy", buffer.getvalue()) == bytes(range(first, first + 6))


@given(st.binary(min_size=1, max_size=40))
def test_numbers_come_back(data):
    assert read(".npy", written(".npy", data)) == data
    assert read(".npy", array(list(data), np.uint8)) == data
    signed = np.frombuffer(data, np.uint8).astype(int) - 128
    assert read(".npy", array(signed, np.int8)) == data
    assert read(".npy", array(256 * signed, np.int16))[::2] == data


@refused(
    (array([0.5], np.float32), "uint8, int8, int16 or bool, found float32. Scale"),
    (array([1], np.uint16), "uint8, int8, int16 or bool, found uint16"),
    (array([{}], object), "be a whole .npy file of numbers, found .*objects"),
    (array([], np.uint8), r"hold at least one number, found shape \(0,\)"),
    (2 * array([1], np.uint8), "hold one array, found 129 bytes behind it"),
    (b"\x80\x04K\x01." + bytes(9), "numbers, found the magic string is not"),
)
def test_no_numbers_are_refused(content, message):
    with pytest.raises(ValueError, match=f"some.npy' must .*{message}"):
        read(".npy", content)
