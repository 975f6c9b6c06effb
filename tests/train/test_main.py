import io
import sys

import jax.random as jr
import numpy as np
import pytest

import train.__main__
from perceiver_eqx import PerceiverAR, generate
from perceiver_eqx.pretrained import save
from tests.models import byte_lm
from train.__main__ import main


def exit_of(capsys, *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    return exit_.value.code, captured.out + captured.err


def test_help_lists_the_commands_and_configs(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    for word in ("train", "sample", "evaluate", "laptop", "smoke"):
        assert word in printed


@pytest.mark.parametrize(
    "command",
    ["train", "sample", "evaluate", "prepare", "compress", "decompress"],
)
def test_every_command_has_help(capsys, command):
    code, printed = exit_of(capsys, command, "--help")
    assert code == 0
    assert "--" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian"],
            "no command 'trian'; choose train, plan, sample, evaluate, ",
        ),
        (["train", "laptob"], "no config 'laptob'; choose one of"),
        (["train", "smoke", "--batch-sise", "3"], "batch-sise"),
        (["train", "smoke", "--steps", "many"], "many"),
        (
            ["train", "smoke", "--steps", "1"],
            "`warmup_steps` must be below `steps` = 1",
        ),
        (["train", "smoke", "--model.num-heads", "3"], "(twice `num_heads`)"),
        (["train", "smoke", "--data.path", "/nowhere"], "/nowhere"),
        (["train", "smoke", "--out", __file__], "`out` must be a folder that can be"),
        (["sample", "--model", "/nowhere.safetensors"], "no model file at"),
        (["sample", "--top-p", "0"], "`top_p` must lie in"),
    ],
)
def test_bad_words_and_values_are_refused_with_what_to_do(
    capsys, monkeypatch, arguments, message
):
    monkeypatch.setenv("COLUMNS", "200")
    code, printed = exit_of(capsys, *arguments)
    assert code == 2
    assert message in " ".join(printed.replace("│", " ").split())
    assert "Traceback" not in printed


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(path, byte_lm(3, num_layers=1))
    return str(path)


@pytest.mark.parametrize("from_standard_input", [False, True])
def test_a_sample_is_the_prompt_and_what_generate_adds(
    capfdbinary, monkeypatch, model_file, from_standard_input
):
    standard_input = io.TextIOWrapper(io.BytesIO(b"abcd"))
    monkeypatch.setattr(sys, "stdin", standard_input)
    prompt = "-" if from_standard_input else "abcd"
    options = ["--prompt", prompt, "--num-bytes", "9", "--temperature", "0"]
    main(["sample", "--model", model_file, *options, "--stop", "no such text"])
    model = byte_lm(3, num_layers=1)
    added = generate(model, b"abcd", 9, temperature=0.0, key=jr.key(0))
    expected = b"abcd" + np.asarray(added).tobytes() + b"\n"
    assert capfdbinary.readouterr().out == expected


def test_a_file_of_another_model_is_refused(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    sizes = {"max_symbols": 4, "max_latents": 2, "dim": 4}
    save(path, PerceiverAR(9, num_layers=1, num_heads=1, key=jr.key(0), **sizes))
    with pytest.raises(SystemExit) as exit_:
        main(["sample", "--model", str(path)])
    assert exit_.value.code == 2
    assert "must be a file of a ByteLM" in capsys.readouterr().err


@pytest.mark.parametrize("decoded", [False, True])
def test_what_is_made_of_a_file_is_saved(
    tmp_path, capfdbinary, monkeypatch, model_file, decoded
):
    """Of its bytes, or of the numbers in it."""
    asked = []

    def recorded(model, prompt, num_bytes, **options):
        asked.append((prompt, options["context"], options["stop"]))
        yield b"xy\xff"

    monkeypatch.setattr(train.__main__, "stream", recorded)
    source, saved = tmp_path / "source.npy", tmp_path / "saved.txt"
    np.save(source, np.array([3, 1, 2], np.uint8))
    options = ["--context-path", str(source), "--save", str(saved)]
    options += ["--decode", "--no-ends"] if decoded else []
    main(["sample", "--model", model_file, *options])
    expected = b"\3\1\2" if decoded else source.read_bytes()
    assert asked == [(b"", expected, [] if decoded else [b"\0"])]
    assert saved.read_bytes() == b"xy\xff"
    assert capfdbinary.readouterr().out == b"xy\xff\n"
    with pytest.raises(SystemExit):
        main(["sample", "--model", model_file, *options, "--context", "too"])


def test_an_interrupted_sample_ends_its_line(capfdbinary, monkeypatch, model_file):
    def interrupted(*_, **__):
        yield b"xy"
        raise KeyboardInterrupt

    monkeypatch.setattr(train.__main__, "stream", interrupted)
    with pytest.raises(SystemExit) as exit_:
        main(["sample", "--model", model_file, "--prompt", "ab"])
    assert exit_.value.code == 130
    assert capfdbinary.readouterr() == (b"abxy\n", b"")


def test_a_file_is_compressed_and_comes_back(tmp_path, capsys, model_file):
    path, small, back = (tmp_path / name for name in ("a", "b", "c"))
    path.write_bytes(b"some bytes, and some more bytes")
    model = ["--model", model_file]
    main(["compress", "--path", str(path), "--out", str(small), *model])
    main(["decompress", "--path", str(small), "--out", str(back), *model])
    assert back.read_bytes() == path.read_bytes()
    printed = capsys.readouterr().out
    assert f"31 bytes to {small.stat().st_size} in" in printed
    assert f"{small.stat().st_size} bytes to 31 in" in printed


@pytest.mark.parametrize("out", ["", "nowhere/b"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path, capsys, model_file, out
):
    (tmp_path / "a").write_bytes(b"some bytes")
    paths = ["--path", str(tmp_path / "a"), "--out", str(tmp_path / out)]
    code, printed = exit_of(capsys, "compress", *paths, "--model", model_file)
    assert code == 2
    assert "`out` must be a file in a folder that exists" in printed
    assert "bytes to" not in printed
