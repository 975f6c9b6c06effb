"""Writes what transformers gives, for tests that run without it."""

import json

from tests.pretrained.foreign import EXPECTED

from .test_huggingface import to_expect


EXPECTED.write_text(json.dumps(to_expect(), indent=1) + "\n")
