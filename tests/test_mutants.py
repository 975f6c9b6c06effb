import pytest

from tests import (
    mutants,
    mutants_context,
    mutants_devices,
    mutants_files,
    mutants_parents,
    mutants_streams,
    mutants_trainer,
)
from tests.planting import ROOT, is_caught


each_mistake = pytest.mark.parametrize(
    "mutant",
    [
        *mutants.MUTANTS,
        *mutants_context.MUTANTS,
        *mutants_devices.MUTANTS,
        *mutants_files.MUTANTS,
        *mutants_parents.MUTANTS,
        *mutants_streams.MUTANTS,
        *mutants_trainer.MUTANTS,
    ],
    ids=lambda mutant: mutant.mistake,
)


@each_mistake
def test_a_planted_mistake_applies_to_the_source_and_names_a_test(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.source) == 1
    path, name = mutant.test.split("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()


@pytest.mark.slow
@each_mistake
def test_a_planted_mistake_is_caught(mutant):
    assert is_caught(mutant), f"{mutant.test} passes in spite of it"
