"""Whole runs, the process included: killed, resumed, sampled, evaluated."""

import dataclasses
import json
import re
import signal
import time

import jax
import pytest

from tests.train.runs import (
    corpus,
    ended_alike,
    numbers,
    smoke,
    start,
    starts,
    wait_for,
)
from train.__main__ import main
from train.config import DataConfig, to_json
from train.configs import load
from train.loop import train


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run from end to end: its config, and what it printed."""
    config = smoke(tmp_path_factory.mktemp("unbroken"))
    lines = []
    train(config, report=lines.append)
    return config, "\n".join(lines)


def test_a_run_learns_saves_and_samples(unbroken):
    config, printed = unbroken
    records = numbers(config.out)
    losses = [r["bits_per_byte"] for r in records if r["kind"] == "train"]
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, 21))
    assert losses[0] > 7.5 > 7 > losses[-1]
    validations = [r["bits_per_byte"] for r in records if r["kind"] == "validation"]
    assert validations[-1] < validations[0] < 8
    assert "left" in printed
    assert "validation bits/byte" in printed
    assert "--- sample at step 20 ---\ndef " in printed
    for name in ("model.safetensors", "loss.png", "checkpoints/20"):
        assert (config.out / name).exists()
    (begun,) = starts(config.out)
    assert begun["from_step"] == 0
    assert begun["config"] == json.loads(json.dumps(to_json(config)))
    assert begun["versions"]["jax"] == jax.__version__
    assert begun["commit"] is None or len(begun["commit"]["name"]) == 40


def test_stopped_and_killed_and_started_again_it_ends_as_the_unbroken_run(
    unbroken, tmp_path
):
    """Asked to stop at a step, then killed a moment after a checkpoint, which may be
    inside a save."""
    config, _ = unbroken
    process = start(config, tmp_path, "--log-every", "1")
    wait_for(process, "step       7/")
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert "stopping as soon as all is saved" in printed
    (stopped,) = re.findall(r"stopped, and saved, at step (\d+) of 20; the", printed)
    process = start(config, tmp_path, "--log-every", "1")
    wait_for(process, f"going on from step {stopped} of ")
    wait_for(process, "step      10/")
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = start(config, tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert "going on from step" in printed
    assert ended_alike(tmp_path, config.out)
    first, second, third = starts(tmp_path)
    assert (first["from_step"], second["from_step"]) == (0, int(stopped))
    assert third["from_step"] >= int(stopped)
    assert "--log-every" in second["command"]


def test_a_complete_run_is_left_as_it_is(unbroken):
    config, _ = unbroken
    before = (config.out / "metrics.jsonl").read_bytes()
    lines = []
    train(config, report=lines.append)
    assert "is complete; a new one needs another --out" in lines[-1]
    assert (config.out / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "`seed` was 0 in the run to resume and is 1 now"),
        ({"resume": False}, "`resume` is off, but .* holds a run"),
    ],
)
def test_another_config_does_not_resume_the_run(unbroken, change, message):
    config, _ = unbroken
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(config, **change))


def test_other_data_does_not_resume_the_run(unbroken):
    config, _ = unbroken
    file = config.data.path / "0.txt"
    text = file.read_text()
    try:
        file.write_text(text + ".")
        with pytest.raises(ValueError, match="`data.path` holds other content"):
            train(config)
    finally:
        file.write_text(text)


def test_sample_goes_on_from_a_prompt(unbroken, capfdbinary):
    model = str(unbroken[0].out / "model.safetensors")
    printed = []
    for _ in range(2):
        main(["sample", "--model", model, "--prompt", "word1", "--num-bytes", "8"])
        printed.append(capfdbinary.readouterr().out)
    assert printed[0].startswith(b"word1")
    assert printed[0] == printed[1]


def test_evaluate_prints_the_last_validation(unbroken, capsys):
    config, _ = unbroken
    model, data = str(config.out / "model.safetensors"), str(config.data.path)
    sizes = "--data.window-bytes 128 --batch-size 4 --chunk-steps 8"
    some = ["--data.path", data, "--data.validation-bytes", "1024"]
    main(["evaluate", "--model", model, *some, *sizes.split()])
    printed = capsys.readouterr().out
    last = [r for r in numbers(config.out) if r["kind"] == "validation"][-1]
    assert abs(float(printed.split()[0]) - last["bits_per_byte"]) < 1e-3


def test_pairs_are_learned_and_sampled_by_their_source(tmp_path, capsys):
    """To write a word backwards."""
    words = [f"{n * n % 97:02d}-{n:03d}" for n in range(60)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    smoke = load("smoke")

    config = dataclasses.replace(
        smoke,
        model=dataclasses.replace(smoke.model, use_context=True),
        data=DataConfig("pairs", path, window_bytes=16, context_bytes=8),
        batch_size=8,
        out=tmp_path / "run",
    )
    lines = []
    train(config, report=lines.append)
    printed = "\n".join(lines)
    (count,) = re.findall(r"(\d+) pairs to train on", printed)
    assert "\n  given " in printed
    records = numbers(config.out)
    trained = [r for r in records if r["kind"] == "train"]
    assert trained[0]["bits_per_byte"] > 7.5 > 6.5 > trained[-1]["bits_per_byte"]
    epoch = -(-int(count) // config.batch_size)
    assert trained[epoch - 1]["bytes_seen"] == 7 * int(count)
    model = str(config.out / "model.safetensors")
    likeliest = ["sample", "--model", model, "--temperature", "0"]
    main([*likeliest, "--context", "12-345", "--prompt", "54"])
    assert capsys.readouterr().out.startswith("54")
    made = tmp_path / "made.tsv"
    data = f"--data.kind pairs --data.path {path} --data.context-bytes 8"
    sizes = "--data.window-bytes 16 --batch-size 4 --rows 5 --part all"
    main(["evaluate", "--model", model, *f"{data} {sizes} --made {made}".split()])
    bits, right = capsys.readouterr().out.splitlines()
    assert float(bits.split()[0]) < 7
    assert " of 5 targets right, word errors " in right
    for line in made.read_bytes().splitlines():
        source, target, _ = line.split(b"\t")
        assert target == source[::-1]


def test_a_context_is_for_pairs_and_for_nothing_else():
    smoke = load("smoke")
    pairs = dataclasses.replace(smoke.data, kind="pairs")
    model = dataclasses.replace(smoke.model, use_context=True)
    for change in ({"data": pairs}, {"model": model}):
        with pytest.raises(ValueError, match="`use_context` must be on for pairs"):
            dataclasses.replace(smoke, **change)


@pytest.mark.reliability
def test_a_task_that_is_made_up_is_trained_and_evaluated(tmp_path, capsys):
    smoke, path = load("smoke"), corpus(tmp_path / "data")
    config = dataclasses.replace(
        smoke,
        model=dataclasses.replace(smoke.model, use_context=True),
        data=DataConfig(
            "needle", path, window_bytes=16, context_bytes=64, validation_bytes=64
        ),
        steps=3,
        out=tmp_path / "run",
    )
    lines = []
    train(config, report=lines.append)
    assert any("contexts of 64 bytes, made up for needle" in line for line in lines)
    assert any("step       3: validation" in line for line in lines)
    assert not any("--- sample" in line for line in lines)
    seen = [r["bytes_seen"] for r in numbers(config.out) if r["kind"] == "train"]
    assert seen == [64, 128, 192]
    model = str(config.out / "model.safetensors")
    arguments = ["--data.kind", "needle", "--data.path", str(path), "--rows", "3"]
    picture = tmp_path / "right.png"
    arguments += ["--lengths", "64", "48", "--picture", str(picture)]
    main(["evaluate", "--model", model, *arguments])
    printed = capsys.readouterr().out
    for line, length in zip(printed.splitlines(), (64, 48), strict=True):
        assert line.startswith(f"contexts of {length} bytes: ")
        assert line.endswith(" of 3 sequences in all")
    assert picture.read_bytes().startswith(b"\x89PNG")
