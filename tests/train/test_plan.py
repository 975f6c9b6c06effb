"""What a run would take is told before it runs, and what to do if it is too much."""

import dataclasses
import math
import re
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from perceiver_eqx import ByteLM
from tests.train.runs import smoke
from train import flops, plan_mesh
from train import plan as planning
from train.__main__ import main
from train.collectives import Collective
from train.configs import load
from train.memory import OutOfMemory, advised
from train.optim import muon
from train.program import new_state


def products_of(jaxpr, scope: str = "", times: int = 1) -> Iterator[tuple[str, int]]:
    """The products of a program, once for each pass of a loop: the named scopes that
    they stand in, and how many multiplications they are."""
    for equation in jaxpr.eqns:
        inside = f"{scope}/{equation.source_info.name_stack}"
        passes = 1
        if equation.primitive.name == "scan":
            passes = equation.params["length"]
        for inner in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                inner = getattr(inner, "jaxpr", inner)
                yield from products_of(inner, inside, times * passes)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            summed = math.prod(shape[axis] for axis in contracted)
            yield inside, times * equation.outvars[0].aval.size * summed


def is_jaxpr(x) -> bool:
    return hasattr(getattr(x, "jaxpr", x), "eqns")


MODEL = {
    "bytes_per_step": 2,
    "num_latents": 2,
    "latent_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "local_window": 1,
    "local_conv": 0,
    "output_layers": 2,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"readout": "queries"},
        {"readout": "places", "gated_mlp": False},
        {"use_context": True, "context_patch": 2, "context_layers": 1},
        {"use_context": True, "ask_context": False},
    ],
    ids=str,
)
def test_operations_are_those_of_the_traced_products(monkeypatch, changes):
    """But for those of looking up bytes, and of the tiles of the prefix scan."""
    # The program forms all pairs, and masks some.
    monkeypatch.setattr(flops, "pairs", lambda steps, window: steps**2)
    model = ByteLM(**(MODEL | changes), key=jr.key(0))
    steps, context = 6, 6 if model.contexts is not None else 0
    given = [jnp.zeros((steps, 2), jnp.uint8)]
    given += [jnp.zeros(context, jnp.uint8)] * (context > 0)
    linear = attention = 0
    for scope, count in products_of(jax.make_jaxpr(model)(*given).jaxpr):
        if "pqx.attend" in scope:
            attention += count
        elif not re.search(r"pqx\.(embed|prefix_attend)", scope):
            linear += count
    told = flops.products(model, 2 * steps, context_bytes=context)
    latents, dim = model.perceiver.encoder.latents.shape
    in_prefix = 2 * (2 * steps) * latents * dim
    assert told == (linear, attention + in_prefix)


def test_operations_of_an_update_are_those_of_its_traced_products():
    model = ByteLM(**MODEL, key=jr.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    optim = muon(
        lambda _: 1e-3,
        b1=0.9,
        b2=0.98,
        weight_decay=0.1,
        clip_norm=1.0,
        dtype="float32",
    )
    update = jax.make_jaxpr(optim.update)(params, optim.init(params), params)
    found = sum(count for _, count in products_of(update.jaxpr))
    assert flops.muon_flops(model) == pytest.approx(2 * found, rel=0.02)


def test_a_run_is_planned_without_running_or_reading_anything(tmp_path, monkeypatch):
    config, lines = load("smoke"), []
    monkeypatch.setattr(planning, "largest_batch", lambda *_: 4567)
    data = dataclasses.replace(config.data, path=tmp_path / "nothing")
    config = dataclasses.replace(config, batch_size=2, data=data, out=tmp_path / "run")
    found = planning.plan(config, report=lines.append)
    assert not any(tmp_path.iterdir())
    state = new_state(config, jr.key(0))
    arrays = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    assert found.state_bytes == sum(x.nbytes for x in arrays) < found.step_bytes
    assert found.parameters == sum(
        x.size for x in jax.tree.leaves(eqx.filter(state.model, eqx.is_array))
    )
    assert lines[0].startswith(
        f"{found.parameters:,} parameters; a step of 2 sequences"
    )
    assert "kB are parameters and what the optimizer keeps; cpu has" in lines[1]
    assert lines[2] == "it fits; the largest batch that does is of 4,567 sequences"
    assert re.search(r"operations a second.*measured; 20 steps take .* at", lines[3])
    assert 1e8 < found.flops_per_second < 1e14
    least = config.steps * found.step_flops / found.flops_per_second
    assert found.fewest_seconds == pytest.approx(least)
    assert found.fewest_seconds < found.seconds


def test_of_several_processes_one_is_planned(monkeypatch):
    monkeypatch.setattr(planning, "step_memory", lambda _: (1000, 9000))
    config = dataclasses.replace(load("smoke"), batch_size=6, micro_batches=2)
    many = {"num_processes": 3, "process_id": 2, "coordinator": "localhost:1234"}
    lines: list[str] = []
    found = planning.plan(dataclasses.replace(config, **many), report=lines.append)
    assert lines[0] == "each of 3 processes, with its share of the batch:"
    alone = planning.plan(dataclasses.replace(config, batch_size=2), report=str)
    assert found.step_flops == alone.step_flops


def test_the_largest_batch_is_found(monkeypatch):
    config = dataclasses.replace(load("smoke"), batch_size=8, micro_batches=4)
    compiled = []

    def of_batch(batch: int) -> int:
        # What a compiler might make of it.
        return 10_000 + 37 * batch + 500 * (batch // 100)

    def memory(config):
        compiled.append(config.batch_size)
        return 0, of_batch(config.batch_size)

    monkeypatch.setattr(planning, "step_memory", memory)
    of_own = memory(config)[1]
    for room in (5_000, 10_200, 10_300, 11_000, 30_000, 1_000_000):
        compiled.clear()
        largest = planning.largest_batch(config, of_own, room)
        assert len(compiled) <= 8
        assert largest % 4 == 0
        fits = [n for n in range(4, 40_000, 4) if of_batch(n) <= room]
        best = max(fits, default=0)
        assert 0.85 * best <= largest <= best
    assert planning.largest_batch(config, of_own, 1 << 60) == planning.MOST_ROWS


def at(config, batch_size):
    return dataclasses.replace(config, batch_size=batch_size)


def test_of_a_mesh_it_is_told_what_devices_send_and_what_takes_longest(monkeypatch):
    """Whether the devices are there or not; here they are."""
    exchanges = (
        Collective("all-reduce", ("time",), 16, 16, 10**9, 3, "a"),
        Collective("collective-permute", ("time",), 4, 4, 10**6, 40, "b"),
    )
    compiled = jax.jit(lambda: 0).lower().compile()
    monkeypatch.setattr(plan_mesh, "compile_over", lambda *_: compiled)
    monkeypatch.setattr(plan_mesh, "collectives", lambda *_: exchanges)
    monkeypatch.setattr(plan_mesh, "bytes_of", lambda _: (10**6, 10**7))
    config, lines = dataclasses.replace(load("smoke"), mesh="data=2,time=2"), []
    found = planning.plan(config, report=lines.append)
    assert (found.state_bytes, found.step_bytes) == (10**6, 10**7)
    # Twice fifteen sixteenths of it, three times, between hosts; the rest within one.
    assert found.between_seconds == pytest.approx(3 * (1.875 / 40 + 2e-5))
    assert found.within_seconds == pytest.approx(40 * (1e6 / 300e9 + 2e-5))
    assert "each of 4 devices takes 10.0 MB by the compiler, of which 1.0" in lines[1]
    assert re.search(r"^time +all-reduce +3 +5\.6 GB +1\.9 GB$", lines[3])
    assert "most of it of what is sent between hosts" in lines[-1]


@pytest.mark.reliability
def test_the_largest_batch_is_the_largest_that_the_compiler_finds_room_for():
    config = load("smoke")
    _, of_own = planning.step_memory(config)
    room = 20 * of_own
    largest = planning.largest_batch(config, of_own, room)
    assert planning.step_memory(at(config, largest))[1] <= room
    assert planning.step_memory(at(config, largest * 6 // 5))[1] > room


def test_out_of_memory_says_what_was_asked_and_what_to_lower(tmp_path, capsys):
    """Of a model of more bytes than a process has addresses."""
    config = smoke(tmp_path)
    arguments = f"train smoke --data.path {config.data.path} --out {config.out}".split()
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--model.mlp-widening", str(2**40)])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    asked = r"Out of memory allocating \d{16} bytes"
    assert re.search(f"error: cpu has .*B, which is not enough: .*{asked}", said)
    assert "Lower `chunk_steps` = 8, raise `micro_batches` = 1" in said
    assert "`python -m train plan` tells what fits" in said


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.",
        # As it is said of a computation that waited for one before it.
        "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes.",
        "RESOURCE_EXHAUSTED: Allocation (size=1) would exceed memory (size=0)",
    ],
)
def test_out_of_memory_is_known_however_it_is_said(message):
    with pytest.raises(
        OutOfMemory, match="which is not enough: .*[^.]. What was saved"
    ):
        with advised(load("smoke")):
            raise jax.errors.JaxRuntimeError(message)


def test_other_errors_of_jax_are_not_taken_for_it():
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        with advised(load("smoke")):
            raise error
