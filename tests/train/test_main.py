import pytest

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


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_every_command_has_help(capsys, command):
    code, printed = exit_of(capsys, command, "--help")
    assert code == 0
    assert "--" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no command 'trian'; choose train, sample or evaluate"),
        (["train", "laptob"], "no config 'laptob'; choose one of"),
        (["train", "smoke", "--batch-sise", "3"], "batch-sise"),
        (["train", "smoke", "--steps", "many"], "many"),
        (
            ["train", "smoke", "--steps", "1"],
            "`warmup_steps` must be below `steps` = 1",
        ),
        (["train", "smoke", "--model.num-heads", "3"], "multiple of twice `num_heads`"),
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
