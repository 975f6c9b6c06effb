import pytest

from tests.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_a_planted_mistake_applies_to_the_source_and_names_a_test(mutant):
    """`python -m tests.mutants`, which takes hours, plants them."""
    assert (ROOT / mutant.file).read_text().count(mutant.source) == 1
    path, name = mutant.test.split("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()
