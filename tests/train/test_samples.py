import dataclasses

import jax.random as jr
import pytest

from tests.models import byte_lm
from train import configs
from train.config import DataConfig
from train.data.media import MediaConfig, decode
from train.data.pairs import Pair
from train.samples import Sample, make_samples, save_samples, text_of


def config_of(tmp_path, kind, suffix="", **data):
    smoke = configs.load("smoke")
    return dataclasses.replace(
        smoke,
        model=dataclasses.replace(smoke.model, use_context=kind == "pairs"),
        data=DataConfig(kind, **data),
        sample=dataclasses.replace(smoke.sample, num_bytes=6, suffix=suffix),
        out=tmp_path,
    )


def test_a_prompt_is_gone_on_with_and_sequences_begin_with_nothing(tmp_path):
    model = byte_lm(3, num_layers=1)
    (one,) = make_samples(model, config_of(tmp_path, "bytes"), jr.key(0), [])
    assert one.given == b"def "
    assert (one.target, len(one.made)) == (None, 6)
    config = config_of(tmp_path, "sequences", ends=False)
    found = make_samples(model, config, jr.key(0), [])
    assert [(len(s.made), s.given) for s in found] == 3 * [(6, b"")]
    assert len({s.made for s in found}) > 1


def test_pairs_are_answered_up_to_their_end(tmp_path):
    model, pairs = byte_lm(3, True, num_layers=1), [Pair(b"a", b"1"), Pair(b"bc", b"2")]
    config = config_of(tmp_path, "pairs")
    found = make_samples(model, config, jr.key(0), 3 * pairs)
    assert [Pair(s.given, s.target) for s in found] == (3 * pairs)[:3]
    assert not any(b"\0" in s.made for s in found)


def test_what_is_no_text_is_told_by_its_size():
    samples = [Sample(b"def ", None, b"f()"), Sample(bytes(999), b"seven", b"s\xff")]
    assert text_of(samples) == (
        "def f()\n(999 bytes, no text)\n  given seven\n  made  s\ufffd"
    )


def test_of_long_sources_and_targets_the_beginning_is_shown():
    shown = text_of([Sample(2000 * b"a", 601 * b"b", 700 * b"c")])
    assert shown == (
        f"{600 * 'a'}... (2,000 letters)\n  given {600 * 'b'}... (601 letters)\n"
        f"  made  {700 * 'c'}"
    )


@pytest.mark.parametrize("suffix", [".mid", ".png", ".wav"])
def test_samples_are_files_to_hear_and_to_look_at(tmp_path, suffix):
    media = MediaConfig(image_size=(1, 4), gray=True, steps_per_quarter=1)
    config = config_of(tmp_path, "sequences", suffix, decode=True, media=media)
    samples = [Sample(b"", None, bytes([60, 55, 1, 1])) for _ in range(2)]
    path = save_samples(samples, config, 7)
    assert path == tmp_path / "samples" / f"step_000007{suffix}"
    read = decode(path, dataclasses.replace(media, image_size=None))
    assert len(read) == 8
    if suffix == ".mid":
        assert read == samples[0].made * 2
    assert path.with_suffix(".png").exists() == (suffix != ".wav")
    assert save_samples([Sample(b"", None, b"")], config, 8) is None
