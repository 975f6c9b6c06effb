"""Writes what the parents' libraries give, for tests that run without them."""

import json
import tempfile
from pathlib import Path

from tests.pretrained.foreign import EXPECTED, KNOWN_KRASSERM

from . import test_huggingface, test_krasserm


EXPECTED.write_text(json.dumps(test_huggingface.to_expect()) + "\n")
with tempfile.TemporaryDirectory() as folder:
    test_krasserm.make_models(Path(folder))
    found = test_krasserm.to_expect(Path(folder))
KNOWN_KRASSERM.write_text(json.dumps(found) + "\n")
