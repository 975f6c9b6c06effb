import dataclasses
import json
from pathlib import Path

import pytest

from train import configs
from train.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
    to_json,
)
from train.resumable import check_resumable


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (ModelConfig, {"num_latents": 0}, "`num_latents` must be at least 1, got 0"),
        (ModelConfig, {"latent_window": 0}, "`latent_window` must be at least 1"),
        (ModelConfig, {"latent_dim": 100}, "`latent_dim` must be a multiple of 8 "),
        (ModelConfig, {"local_dim": 15}, "`local_dim` must be a multiple of 4 "),
        (ModelConfig, {"local_heads": 0}, "`local_heads` must be at least 1, got 0"),
        (ModelConfig, {"token_dim": 0}, "`token_dim` must be at least 1, got 0"),
        (ModelConfig, {"ngrams": (1,)}, "`ngrams` must be at least 2, got 1"),
        (ModelConfig, {"dropout": 1.0}, r"`dropout` must lie in \[0, 1\), got 1.0"),
        (DataConfig, {"validation_fraction": 0.0}, "`validation_fraction` must lie in"),
        (DataConfig, {"validation_bytes": 10}, "`validation_bytes` must hold a window"),
        (DataConfig, {"target_path": Path("x")}, "`target_path` must be None but for"),
        (
            DataConfig,
            {"validation_path": Path("x")},
            "`validation_path` must be None but",
        ),
        (OptimConfig, {"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        (OptimConfig, {"b2": 1.0}, r"`b2` must lie in \[0, 1\)"),
        (OptimConfig, {"final_share": 2.0}, r"`final_share` must lie in \[0, 1\]"),
        (SampleConfig, {"top_k": 0}, "`top_k` must be between 1 and 256, got 0"),
        (SampleConfig, {"top_p": 1.5}, r"`top_p` must lie in \(0, 1\], got 1.5"),
        (TrainConfig, {"steps": 10}, "`warmup_steps` must be below `steps` = 10"),
        (TrainConfig, {"micro_batches": 3}, "`micro_batches` must divide `batch_size`"),
        (TrainConfig, {"data": DataConfig(window_bytes=1001)}, "nearest below is 1000"),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


@pytest.mark.parametrize("name", configs.names())
def test_every_shipped_config_builds_and_says_how_to_run_it(name):
    assert isinstance(configs.load(name), TrainConfig)
    module = __import__(f"train.configs.{name}", fromlist=["CONFIG"])
    assert f"python -m train train {name}" in module.__doc__


def test_an_unknown_config_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no config 'laptob'; choose one of .*laptop"):
        configs.load("laptob")


def test_a_resumed_run_may_not_change_what_decides_its_numbers():
    config = configs.load("smoke")
    recorded = to_json(config)
    check_resumable(json.loads(json.dumps(recorded)), recorded)
    free = dataclasses.replace(config, log_every=1, sample=SampleConfig(top_k=3))
    check_resumable(recorded, to_json(free))
    model = dataclasses.replace(config.model, latent_window=5)
    changed = dataclasses.replace(config, model=model)
    message = "`model.latent_window` was 4 in the run to resume and is 5 now"
    with pytest.raises(ValueError, match=message):
        check_resumable(recorded, to_json(changed))
