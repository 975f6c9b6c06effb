"""A checkpoint that is not as it was saved is told from one that is, and told how."""

import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.test_checkpoint import make_state
from train import manifest
from train.checkpoint import all_steps, latest_step, restore, save, set_aside_after


LEAF = "state/['half']/0"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for step in (1, 2):
        save(folder, step, make_state(step), {"step": step})
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """Two checkpoints, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def files_of(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match="is damaged: ") as caught:
        restore(folder, make_state())
    assert message in str(caught.value), caught.value
    assert "go on from step 1 (--resume-step 1)" in str(caught.value)
    state, record = restore(folder, make_state(), 1)
    assert record == {"step": int(state["step"])} == {"step": 1}


@given(st.data())
def test_a_single_flipped_bit_is_noticed_in_whatever_file(saved, data):
    names = files_of(saved / "2")
    name = data.draw(st.sampled_from(names))
    path = saved / "2" / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    try:
        path.write_bytes(flipped)
        refused(saved, name)
    finally:
        path.write_bytes(content)


def test_every_file_is_held_to_its_hash(copy):
    for name in files_of(copy / "2"):
        path = copy / "2" / name
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        refused(copy, name)
        path.write_bytes(content)
    assert restore(copy, make_state())[1] == {"step": 2}


DAMAGES = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, not "),
    "emptied": (lambda path: path.write_bytes(b""), "has 0 bytes, not "),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"0"), "bytes, not "),
    "gone": (lambda path: path.unlink(), "is missing"),
    "renamed": (lambda path: path.rename(f"{path}_"), "_` was not there"),
    "more": (lambda path: shutil.copy(path, f"{path}_"), "_` was not there"),
    "link": (lambda path: linked(path), "is a link, or no file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "is a link, or no file"),
}


@pytest.mark.parametrize("name", [LEAF, "state/_METADATA", "record/metadata"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_told(copy, name, damage):
    do, message = DAMAGES[damage]
    do(copy / "2" / name)
    refused(copy, message)


def linked(path: Path) -> None:
    """The same bytes, from elsewhere."""
    elsewhere = path.parents[3] / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def test_a_renamed_leaf_is_told_by_both_names(copy):
    leaf = (copy / "2" / LEAF).parent
    leaf.rename(leaf.with_name("third"))
    refused(copy, "`state/['half']/0` is missing; `state/third/.zarray` was not there")


def test_a_folder_that_is_a_link_is_refused(copy):
    (copy / "2").rename(copy / "two")
    (copy / "2").symlink_to(copy / "two")
    refused(copy, "it is a link")


MANIFESTS = {
    "emptied": (lambda text: "", "is cut short or no text"),
    "cut": (lambda text: text[:-1], "holds other bytes than were saved"),
    "longer": (lambda text: text + "0", "holds other bytes than were saved"),
    "space": (
        lambda text: text.replace(",", " ,", 1),
        "holds other bytes than were saved",
    ),
    "list": (lambda text: signed("[]"), "is no manifest"),
    "without files": (lambda text: signed('{"version": 1}'), "is no manifest"),
    "deep": (lambda text: signed(10**5 * "["), "is no manifest"),
    "newer": (
        lambda text: signed('{"version": 2, "files": {}}'),
        "is of version 2, and this reads 1",
    ),
    "of nothing": (
        lambda text: signed('{"version": 1, "files": {}}'),
        "`_CHECKPOINT_METADATA` was not there; ",
    ),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_another_manifest_is_told(copy, change):
    make, message = MANIFESTS[change]
    path = copy / "2" / manifest.NAME
    path.write_text(make(path.read_text()))
    refused(copy, message)


def signed(text: str) -> str:
    return f"{text}\n{manifest._hash_of(text.encode())}\n"


def test_without_a_manifest_there_is_no_checkpoint(copy):
    (copy / "2" / manifest.NAME).unlink()
    assert latest_step(copy) == 1
    save(copy, 2, {"x": jnp.ones(2)}, {})
    assert restore(copy, {"x": jnp.zeros(2)})[0]["x"].all()


def test_a_checkpoint_from_before_manifests_is_refused_and_not_deleted(copy):
    (copy / "2" / manifest.NAME).unlink()
    (copy / "2/state/manifest.ocdbt").touch()
    for use in (latest_step, lambda folder: save(folder, 3, {"x": jnp.ones(2)}, {})):
        with pytest.raises(ValueError, match="from before checkpoints had manifests"):
            use(copy)
    assert (copy / "2/state/manifest.ocdbt").exists()


def test_later_checkpoints_are_set_aside_and_not_lost(copy):
    for _ in range(2):
        set_aside_after(copy, 1)
        assert all_steps(copy) == [1]
        save(copy, 2, make_state(5), {})
    set_aside_after(copy, 0)
    names = sorted(path.name for path in copy.iterdir())
    assert names == ["1.aside", "2.aside", "2.aside_", "2.aside__"]
