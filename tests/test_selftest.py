"""The self-test that users run: it passes, and it fails where an engine is wrong."""

import jax.numpy as jnp
import pytest

from perceiver_eqx import StepMask, attend, prefix_attend, selftest


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    monkeypatch.setattr(selftest, "ALLOWED", {"float32": 1e-5})
    monkeypatch.setattr(selftest, "ENGINES", ("blockwise", "cudnn"))
    monkeypatch.setattr(selftest, "MASKS", {"window": StepMask(6, 6, 3, 3, 2)})
    monkeypatch.setattr(selftest, "HEAD_DIMS", ())
    monkeypatch.setattr(selftest, "TOKENS", {"64 tokens a step": 64})


def exit_code() -> int:
    with pytest.raises(SystemExit) as caught:
        selftest.main()
    return caught.value.code


def test_it_passes_where_all_is_right(capsys):
    assert exit_code() == 0
    printed = capsys.readouterr().out
    assert "blockwise" in printed
    assert "prefix_attend" in printed
    assert "not run (1): `engine` 'cudnn' cannot serve" in printed
    assert printed.endswith("all errors are small\n")


@pytest.mark.parametrize("off", [1.0001, jnp.nan])
def test_it_fails_where_an_engine_is_wrong(monkeypatch, capsys, off):
    monkeypatch.setattr(selftest, "attend", lambda *x, **y: off * attend(*x, **y))
    assert exit_code() == 1
    assert "TOO LARGE\nprefix" in capsys.readouterr().out


def test_it_fails_where_the_scan_is_wrong(monkeypatch, capsys):
    def faster(*arrays, rate):
        return prefix_attend(*arrays, rate=1.001 * rate)

    monkeypatch.setattr(selftest, "prefix_attend", faster)
    assert exit_code() == 1
    assert "1 errors are too large" in capsys.readouterr().out
