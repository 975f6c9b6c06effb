"""A run in two processes: the numbers of one, and it is stopped, killed and resumed as
one."""

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.train.runs import (
    ENVIRONMENT,
    SAME,
    assert_near,
    ended_alike,
    numbers,
    smoke,
    starts,
)
from train.checkpoint import all_steps
from train.config import TrainConfig, to_json
from train.loop import train
from train.manifest import check_manifest
from train.resumable import check_resumable


# Seconds that a run may take, with its compilation on a machine that does more.
LONG = 400
# Seconds within which the end of one process ends the other.
SOON = 60
GOLDEN = Path(__file__).with_name("golden.json")

running: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _nothing_is_left_running():
    yield
    while running:
        process = running.pop()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder for what the first of these runs compiles, and the others need too."""
    return tmp_path_factory.mktemp("compiled")


class Two:
    """Both processes of a run of such a config in another folder, each of which may
    have arguments of its own."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        compiled: Path,
        *arguments: str,
        of_each: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            **ENVIRONMENT,
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "train", "train", "smoke", "--out", str(out)]
        command += ["--data.path", str(config.data.path), "--num-processes", "2"]
        command += ["--coordinator", f"127.0.0.1:{port}", *arguments]
        out.parent.mkdir(exist_ok=True)
        self.files = [out.with_name(f"{out.name}.{i}.txt") for i in (0, 1)]
        self.processes = []
        for index, file in enumerate(self.files):
            with file.open("w") as stream:
                process = subprocess.Popen(
                    [*command, "--process-id", str(index), *of_each[index]],
                    env=environment,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)
            running.append(process)

    def said(self, index: int) -> str:
        return self.files[index].read_text(errors="replace")

    def wait_for(self, beginning: str) -> None:
        """Until the first process prints a line."""
        while not any(x.startswith(beginning) for x in self.said(0).splitlines()):
            statuses = [process.poll() for process in self.processes]
            assert statuses == [None, None], self.said(0) + self.said(1)
            time.sleep(0.02)

    def ended(self, status: int, within: float = LONG) -> tuple[str, str]:
        """What both printed, which end with a status within some seconds."""
        found = [process.wait(within) for process in self.processes]
        said = self.said(0), self.said(1)
        assert found == [status, status], "\n".join(said)
        return said


def unheard(_line: str) -> None:
    pass


def stopped_at(said: str) -> int:
    """The step that a process says it was stopped at, in its last line."""
    words = said.splitlines()[-1].split()
    assert words[:3] == ["stopped,", "and", "saved,"], said
    assert " ".join(words[-7:]) == "the same command goes on from there"
    return int(words[5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_processes": 0}, "`num_processes` must be at least 1, got 0"),
        ({"process_id": 1}, "`process_id` must be at least 0 and below .* = 1, got 1"),
        ({"num_processes": 2}, "`coordinator` must be host:port .*, got None for 2"),
        ({"coordinator": "a:1"}, "`coordinator` must be .*, got 'a:1' for 1"),
        (
            {"num_processes": 2, "coordinator": "a"},
            "`coordinator` must be host:port, such as .*, got 'a'",
        ),
    ],
)
def test_processes_that_cannot_be_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_what_started_the_processes_may_be_asked_for_their_number():
    assert TrainConfig(coordinator="auto").num_processes == 1


def test_the_number_of_processes_may_change_and_is_in_no_old_checkpoint():
    config = TrainConfig(num_processes=2, process_id=1, coordinator="a:1")
    recorded = to_json(TrainConfig())
    check_resumable(recorded, to_json(config))
    for name in ("num_processes", "process_id", "coordinator"):
        del recorded[name]
    check_resumable(recorded, to_json(config))


def test_two_processes_train_as_one_and_stop_when_one_is_asked_to(tmp_path, compiled):
    config = smoke(tmp_path)
    never = "--validate-every", "1000", "--sample-every", "1000", "--save-every", "1000"
    often = "--steps", "100", "--log-every", "1", *never
    two = Two(config, tmp_path / "two", compiled, *often)
    two.wait_for(f"step {10:>7}/")
    two.processes[1].send_signal(signal.SIGTERM)
    said = two.ended(0, within=2 * SOON)
    step = stopped_at(said[0])
    assert 10 <= step == stopped_at(said[1]) < 100
    assert "step " not in said[1].replace("at step", "")
    assert all_steps(tmp_path / "two/checkpoints") == [step]
    records = numbers(tmp_path / "two")
    assert [record["step"] for record in records] == list(range(1, step + 1))
    golden = json.loads(GOLDEN.read_text())["losses"][:step]
    losses = [record["bits_per_byte"] for record in records]
    np.testing.assert_allclose(losses, golden, rtol=SAME, atol=SAME)
    (begun,) = starts(tmp_path / "two")
    assert begun["config"]["num_processes"] == 2


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, compiled):
    """A run in two processes, in the folder `two` beside its config's."""
    config = smoke(tmp_path_factory.mktemp("unbroken"))
    said = Two(config, config.out.with_name("two"), compiled).ended(0)
    assert "on cpu, a mesh of 2 devices, data=2, in 2 processes" in said[0]
    assert "saved" in said[0].splitlines()[-2]
    assert "step" not in said[1]
    return config


@pytest.mark.reliability
def test_two_processes_log_what_one_does(unbroken):
    train(unbroken, report=unheard)
    two = unbroken.out.with_name("two")
    assert_near(two, unbroken.out)
    names = [{path.name for path in run.iterdir()} for run in (two, unbroken.out)]
    assert names[0] == names[1]
    assert len(starts(two)) == 1
    assert all_steps(two / "checkpoints") == [15, 20]


@pytest.mark.reliability
def test_stopped_by_one_of_two_a_run_goes_on_in_two_or_in_one(
    unbroken, tmp_path, compiled
):
    out, whole = tmp_path / "run", unbroken.out.with_name("two")
    step = 0
    for number, (index, asked) in enumerate([(1, signal.SIGTERM), (0, signal.SIGINT)]):
        two = Two(unbroken, out, compiled, "--log-every", "1")
        two.wait_for(f"step {4 + 6 * number:>7}/")
        two.processes[index].send_signal(asked)
        said = two.ended(0)
        step = stopped_at(said[0])
        assert step == stopped_at(said[1]) == max(all_steps(out / "checkpoints"))
        assert ("stopping as soon as all is saved" in said[index]) > (
            "stopping as soon as all is saved" in said[1 - index]
        )
    shutil.copytree(out, tmp_path / "one")
    train(dataclasses.replace(unbroken, out=tmp_path / "one"), report=unheard)
    assert_near(tmp_path / "one", whole)
    said = Two(unbroken, out, compiled).ended(0)
    assert f"going on from step {step} of" in said[0]
    assert ended_alike(out, whole)
    # A run that is complete says so, and nothing is written.
    said = Two(unbroken, out, compiled).ended(0)
    assert "is complete" in said[0]
    assert ended_alike(out, whole)


@pytest.mark.reliability
@pytest.mark.parametrize("killed", [0, 1])
def test_one_of_two_killed_ends_the_other_and_the_run_goes_on(
    unbroken, tmp_path, compiled, killed
):
    out = tmp_path / "run"
    two = Two(unbroken, out, compiled, "--log-every", "1")
    two.wait_for(f"step {7:>7}/")
    two.processes[killed].kill()
    begun = time.monotonic()
    status = two.processes[1 - killed].wait(SOON)
    assert time.monotonic() - begun < SOON
    said = two.said(1 - killed)
    assert status != 0, said
    assert "cannot go on without the others" in said or "another task died" in said
    steps = all_steps(out / "checkpoints")
    assert 5 in steps
    for step in steps:
        check_manifest(out / f"checkpoints/{step}")
    Two(unbroken, out, compiled).ended(0)
    assert ended_alike(out, unbroken.out.with_name("two"))


@pytest.mark.reliability
def test_where_the_first_cannot_save_all_end_with_a_message(
    unbroken, tmp_path, compiled
):
    checkpoints = tmp_path / "run/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "5").write_text("no folder")
    said = Two(unbroken, checkpoints.parent, compiled).ended(1)
    assert "\nerror: the checkpoint of step 5 could not be written" in said[0]
    message = "\nerror: the first process ended: the checkpoint of step 5 could not be"
    assert message in said[1]


@pytest.mark.reliability
def test_processes_of_other_configs_do_not_begin(unbroken, tmp_path, compiled):
    out = tmp_path / "run"
    other = (), ("--seed", "1")
    said = Two(unbroken, out, compiled, of_each=other).ended(2)
    message = "`seed` must be the same in all processes, got 0 in process 0 and 1 in"
    assert message in said[0]
    assert message in said[1]
    assert not any(path.is_file() for path in out.iterdir())
