"""What ends a run, or should not: numbers that are not finite, damaged checkpoints,
requests to stop, kills, and steps that never end."""

import dataclasses
import random
import resource
import shutil
import signal
import time
from contextlib import contextmanager

import jax.numpy as jnp
import numpy as np
import pytest

import train.loop as loop
import train.program as program
from tests.train.runs import arrays_of, ended_alike, numbers, smoke, start, wait_for
from train.__main__ import main
from train.checkpoint import all_steps
from train.data.source import open_source
from train.loop import NotFinite, train
from train.loss import batch_bits


def not_finite_at(config, steps, monkeypatch) -> None:
    """Makes the loss of the batches of some steps not finite."""
    with open_source(config).training(0) as batches:
        found = [next(batches) for _ in range(max(steps))]
    poisoned = jnp.asarray(np.stack([found[step - 1]["bytes"] for step in steps]))

    def bits(model, batch, key, **options):
        total, count = batch_bits(model, batch, key, **options)
        if key is None:
            return total, count
        hit = (poisoned == batch["bytes"]).all((1, 2)).any()
        return total + jnp.where(hit, jnp.nan, 0), count

    monkeypatch.setattr(program, "batch_bits", bits)


def test_too_many_steps_in_a_row_that_are_not_finite_end_a_run(
    tmp_path, monkeypatch, capsys
):
    config = smoke(tmp_path, max_skipped=2, steps=12)
    not_finite_at(config, [1, 8, 9], monkeypatch)
    arguments = f"train smoke --data.path {config.data.path} --out {config.out}"
    with pytest.raises(SystemExit) as ended:
        main([*arguments.split(), "--max-skipped", "2", "--steps", "12"])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "`max_skipped` = 2 steps in a row had no finite loss" in printed.err
    assert "the last checkpoint, of step 5, is as it was" in printed.err
    assert "step       1: skipped" in printed.out
    records = {r["step"]: r for r in numbers(config.out) if r["kind"] == "train"}
    assert [records[step]["skipped"] for step in (1, 2, 7, 8, 9)] == [1, 1, 1, 2, 3]
    assert records[1]["bits_per_byte"] is records[8]["bits_per_byte"] is None
    # The optimizer has counted one step less.
    assert records[2]["learning_rate"] == 0 < records[3]["learning_rate"]
    assert all_steps(config.out / "checkpoints") == [5]


@pytest.mark.reliability
def test_a_run_goes_on_after_steps_that_are_not_finite_killed_or_not(
    tmp_path, monkeypatch
):
    config = smoke(tmp_path)
    not_finite_at(config, [1, 2, 7, 8, 9, 13], monkeypatch)
    with pytest.raises(NotFinite):
        train(dataclasses.replace(config, max_skipped=3), report=str)
    train(config, report=str)
    again = dataclasses.replace(config, out=tmp_path / "again")
    train(again, report=str)
    assert ended_alike(config.out, again.out)
    assert numbers(config.out)[-1]["step"] == 20
    last = [r for r in numbers(config.out) if r["kind"] == "train"][-1]
    assert last["skipped"] == 6
    assert last["bits_per_byte"] < 7.5


def test_a_step_that_does_not_end_ends_the_run(tmp_path):
    config = smoke(tmp_path)
    process = start(config, config.out, "--hang-seconds", "0.5")
    printed, _ = process.communicate()
    assert process.returncode == 1, printed
    path = config.out / "hang.txt"
    assert f"error: no step within 0.5 s; the stacks are in {path}" in printed
    # Of the thread that trains, at least the innermost hundred frames.
    threads = path.read_text().split("(most recent call first):\n")
    assert any("jax" in thread and len(thread.splitlines()) > 5 for thread in threads)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    config = smoke(tmp_path_factory.mktemp("unbroken"), sample_every=5)
    train(config, report=str)
    return config


@pytest.mark.reliability
def test_killed_ten_times_at_random_moments(unbroken, tmp_path):
    """Of a run that saves at every step, so that kills are inside saves too."""
    rng, inside = random.Random(0), 0
    often = "--save-every", "1", "--log-every", "1", "--sample-every", "5"
    for number in range(1, 11):
        process = start(unbroken, tmp_path, *often)
        wait_for(process, f"step {2 * number - 1:>7}/")
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        steps = set(all_steps(tmp_path / "checkpoints"))
        there = {path.name for path in (tmp_path / "checkpoints").iterdir()}
        inside += there != {str(step) for step in steps}
        # What a kill leaves behind is deleted by the next save.
        assert len(there) <= 4
    process = start(unbroken, tmp_path, *often)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert ended_alike(tmp_path, unbroken.out)
    assert inside > 0


@contextmanager
def signalled(monkeypatch, module, name: str, number: int):
    """A signal inside a function of a module, when it is called for the first time."""
    real, calls = getattr(module, name), []

    def interrupted(*args, **options):
        calls.append(name)
        if len(calls) == 1:
            signal.raise_signal(number)
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        yield


@pytest.mark.reliability
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_at_any_moment(unbroken, tmp_path, monkeypatch, number):
    """While a step is compiled, while samples are made, and while it is evaluated."""
    config = dataclasses.replace(unbroken, out=tmp_path)
    handler = signal.getsignal(number)
    # The step that is evaluated is evaluated again.
    moments = [
        (program, "batch_bits", 1),
        (loop, "make_samples", 5),
        (loop, "evaluate", 10),
        (loop, "_each", 10),
    ]
    lines: list[str] = []
    for module, name, step in moments:
        with signalled(monkeypatch, module, name, number):
            train(config, report=lines.append)
        assert f"stopped, and saved, at step {step} of 20; the same" in lines[-1]
    # Step 10 was saved without its evaluation, which is logged now, before a crash.
    with monkeypatch.context() as patch:
        patch.delattr(loop, "make_samples")
        with pytest.raises(NameError):
            train(config, report=str)
    assert numbers(tmp_path)[-1]["kind"] == "validation"
    train(config, report=lines.append)
    assert "saved" in lines[-1]
    assert ended_alike(tmp_path, unbroken.out)
    assert signal.getsignal(number) is handler


@pytest.mark.reliability
@pytest.mark.parametrize("lost", ["folder", "room"])
def test_a_run_that_cannot_be_saved_ends_with_a_message(
    unbroken, tmp_path, monkeypatch, capsys, lost
):
    """At step 10, after a checkpoint of step 5."""
    out, real = tmp_path / "run", loop.checkpoint.save
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(folder, step, *rest):
        if step == 10 and lost == "room":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        real(folder, step, *rest)
        if step == 5 and lost == "folder":
            shutil.rmtree(out)

    monkeypatch.setattr(loop.checkpoint, "save", save)
    arguments = f"--data.path {unbroken.data.path} --out {out} --sample-every 5"
    try:
        with pytest.raises(SystemExit) as ended:
            main(["train", "smoke", *arguments.split()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    if lost == "folder":
        assert "the run's folder" in said
        assert ended.value.code == 2
        return
    assert ended.value.code == 1
    assert "the checkpoint of step 10 could not be written" in said
    assert all_steps(out / "checkpoints") == [5]
    monkeypatch.undo()
    main(["train", "smoke", *arguments.split()])
    assert ended_alike(out, unbroken.out)


@pytest.mark.reliability
def test_on_purpose_a_run_goes_on_with_another_config_and_other_data(
    unbroken, tmp_path
):
    folder = shutil.copytree(unbroken.out, tmp_path / "run")
    shutil.copytree(unbroken.data.path, tmp_path / "data")
    (tmp_path / "data/0.txt").write_text("other words")
    config = dataclasses.replace(
        unbroken,
        data=dataclasses.replace(unbroken.data, path=tmp_path / "data"),
        out=folder,
        seed=1,
        steps=25,
    )
    with pytest.raises(ValueError, match="pass --resume-changed"):
        train(config)
    train(dataclasses.replace(config, resume_changed=True), report=str)
    steps = [r["step"] for r in numbers(folder) if r["kind"] == "train"]
    assert steps == list(range(1, 26))
    train(dataclasses.replace(config, steps=25), report=str)


@pytest.mark.reliability
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(unbroken, tmp_path):
    folder = shutil.copytree(unbroken.out, tmp_path / "run")
    config = dataclasses.replace(unbroken, out=folder)
    (leaf,) = folder.glob("checkpoints/20/state/model.outputs.*scale/0")
    leaf.write_bytes(bytes(leaf.stat().st_size))
    with pytest.raises(ValueError, match="go on from step 15 .--resume-step 15"):
        train(config)
    train(dataclasses.replace(config, resume_step=15), report=str)
    assert ended_alike(folder, unbroken.out)
    aside = arrays_of(folder / "checkpoints/20.aside")
    assert aside != arrays_of(folder / "checkpoints/20")
