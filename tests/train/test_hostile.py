"""Files that chance damaged, or that somebody made to harm: they are read, or refused
by a declared error. Nothing runs, nothing is written, and no link is followed."""

import builtins
import ctypes
import gc
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_eqx.pretrained import load as load_model
from perceiver_eqx.pretrained import save as save_model
from tests.models import byte_lm
from train.checkpoint import restore, save
from train.data.pairs import read_pairs, read_sequences
from train.manifest import write_manifest


# Orbax leaves unfinished what it had begun to read beside an array that it cannot.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

STATE = {"a": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(3)}
RECORD = {"config": {"seed": 0}, "data": "abc"}
# What loading a file has no business with; opening one is looked at more closely.
HARMS = (
    *((os, name) for name in ("system", "fork", "posix_spawn", "execv", "execve")),
    *((os, name) for name in ("mkdir", "remove", "unlink", "rename", "replace")),
    *((os, name) for name in ("symlink", "link", "rmdir", "truncate", "chmod")),
    *((pickle, name) for name in ("load", "loads", "Unpickler")),
    (subprocess, "Popen"),
    (socket.socket, "connect"),
    (ctypes, "CDLL"),
)
OPENING = (builtins, "open"), (io, "open"), (os, "open")


@contextmanager
def harmless():
    """Nothing happens inside that loading has no business with. (An audit hook would
    hear more, but stays for good, and slows all that follows.)"""
    harms: list[str] = []

    def harm(real, name):
        def heard(*args, **options):
            harms.append(name)
            return real(*args, **options)

        return heard

    def opening(real):
        def heard(path, how="r", *args, **options):
            how = options.get("mode", how)
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if how & writes if isinstance(how, int) else set(how) & set("wax+"):
                harms.append(f"{path} is written")
            return real(path, how, *args, **options)

        return heard

    with ExitStack() as stack:
        for module, name in HARMS:
            heard = harm(getattr(module, name), name)
            stack.enter_context(patch.object(module, name, heard))
        for module, name in OPENING:
            heard = opening(getattr(module, name))
            stack.enter_context(patch.object(module, name, heard))
        yield
    assert harms == []


def test_harm_would_be_noticed(tmp_path):
    for harm in (
        lambda: os.system("true"),
        lambda: (tmp_path / "written").write_text("x"),
        lambda: os.close(os.open(tmp_path / "opened", os.O_CREAT | os.O_WRONLY)),
        lambda: os.mkdir(tmp_path / "made"),
        lambda: pickle.loads(pickle.dumps(3)),
        lambda: subprocess.run(["true"], check=True),
    ):
        with pytest.raises(AssertionError):
            with harmless():
                harm()


TOKENS = [b"../../", b"/etc/passwd", b"file:///etc/", b"|O8", b"null", b"-1", b"1e999"]
TOKENS += [b"NaN", b"[" * 3000, b"9" * 30, b'{"a":', b"\xff\xfe", b"\x00", b"true"]
TOKENS += [b"ocdbt", b"\t", b"\n", b'"', b"<f8", b"gzip", b"zlib"]


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Other bytes than these: some changed, cut out, put in or said twice."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(len(content), start + 40)))
        new = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(TOKENS),
                st.just(content[start:stop] * 2),
                st.just(bytes(b ^ 1 for b in content[start:stop])),
            )
        )
        content = content[:start] + new + content[stop:]
    return content if draw(st.booleans()) else content[: draw(st.integers(0, 2000))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(folder, 1, STATE, RECORD)
    restore(folder, STATE)
    return folder


def plain_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check_checkpoint(folder: Path) -> None:
    """It is read as a state of the same kind, or refused."""
    with harmless():
        try:
            state, record = restore(folder, STATE)
        except (ValueError, FileNotFoundError):
            gc.collect()
            return
    assert isinstance(record, dict)
    for name, array in state.items():
        assert (array.shape, array.dtype) == (STATE[name].shape, STATE[name].dtype)


@given(st.data())
def test_a_checkpoint_of_anything_with_the_right_hashes(saved, data):
    files = [p for p in plain_files(saved / "1") if p.name != "manifest.json"]
    path = data.draw(st.sampled_from(files))
    content, manifest = path.read_bytes(), (saved / "1/manifest.json").read_bytes()
    try:
        path.write_bytes(data.draw(damaged(content)))
        write_manifest(saved / "1")
        check_checkpoint(saved)
    finally:
        path.write_bytes(content)
        (saved / "1/manifest.json").write_bytes(manifest)


@given(st.data())
def test_any_manifest(saved, data):
    path = saved / "1/manifest.json"
    content = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(content)))
        check_checkpoint(saved)
    finally:
        path.write_bytes(content)


ARRAYS = {
    "of objects, which a pickle is": {"dtype": "|O"},
    "larger than the world": {"shape": [10**9, 10**9]},
    "of no compressor that there is": {"compressor": {"id": "../../evil"}},
    "of a filter": {"filters": [{"id": "pickle", "protocol": 5}]},
    "of another order": {"order": "F"},
}


@pytest.mark.parametrize("change", ARRAYS)
def test_an_array_is_not_what_a_hostile_header_says(saved, tmp_path, change):
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (header,) = folder.glob("1/state/*'a'*/.zarray")
    told = json.loads(header.read_text())
    assert told.keys() >= ARRAYS[change].keys()
    header.write_text(json.dumps(told | ARRAYS[change]))
    write_manifest(folder / "1")
    check_checkpoint(folder)


def test_a_link_out_of_a_checkpoint_is_not_followed(saved, tmp_path):
    """Whether it is a file, a folder, or all of it."""
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    outside = Path(shutil.copytree(saved / "1", tmp_path / "outside"))
    inside = folder / "1"
    for part in sorted(p.relative_to(inside) for p in inside.rglob("*")):
        if part.name == "manifest.json":
            continue
        where, kept = inside / part, tmp_path / "kept"
        where.rename(kept)
        where.symlink_to(outside / part)
        with harmless(), pytest.raises(ValueError, match="is a link, or no file"):
            restore(folder, STATE)
        where.unlink()
        kept.rename(where)
    restore(folder, STATE)


def test_a_saved_link_out_of_the_folder_is_replaced_and_not_written_through(tmp_path):
    """Where a checkpoint is to be."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/1").symlink_to(outside)
    with pytest.raises((ValueError, OSError)):
        save(tmp_path / "run", 1, STATE, RECORD)
    assert list(outside.iterdir()) == []


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, byte_lm(3, True, num_layers=1))
    load_model(path)
    return path


@given(st.data())
def test_a_model_file_of_anything(model_file, data):
    content = model_file.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = data.draw(damaged(content[8:size]))
    told = data.draw(st.sampled_from([len(header), size - 8, 2**60]))
    path = model_file.with_name("damaged.safetensors")
    path.write_bytes(told.to_bytes(8, "little") + header + content[size:])
    with harmless():
        try:
            model = load_model(path)
        except (ValueError, FileNotFoundError):
            return
    assert type(model).__name__ == "ByteLM"


PAIRS = {
    "pairs.tsv": b"one\teins\ntwo\tzwei\r\nthree\tdrei",
    "pairs.jsonl": b'{"source": "one", "target": "eins"}\n{"source": "", "target": ""}',
}


def test_pairs_nested_too_deep_are_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"[" * 100_000)
    for read in (read_pairs, read_sequences):
        with pytest.raises(ValueError, match="must not be nested so deep"):
            read(path)


@pytest.mark.parametrize("name", PAIRS)
@given(st.data())
def test_pairs_of_anything(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("pairs") / name
    path.write_bytes(data.draw(damaged(PAIRS[name])))
    with harmless():
        for read in (read_pairs, read_sequences):
            try:
                found = read(path)
            except ValueError:
                continue
            assert all(isinstance(p.source + p.target, bytes) for p in found)
