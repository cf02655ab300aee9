"""DeepSpeed gets the user's JSON untouched, completed, and free of contradictions."""

from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.training.deepspeed_json import deepspeed_json


def test_complete_without_a_user_part(tiny: Any) -> None:
    """Batch sizes, clipping and precision come from the other fields; clipping is never absent."""
    config = tiny("cluster.workers=2", "data.micro_batch=2", "optimizer.gradient_clipping=0")
    json = deepspeed_json(config)
    assert json["train_batch_size"] == 8
    assert json["train_micro_batch_size_per_gpu"] == 2
    assert json["gradient_accumulation_steps"] == 2
    assert json["gradient_clipping"] == 0
    assert json["zero_optimization"] == {"stage": 1}
    assert json["torch_autocast"]["enabled"] is False
    bfloat16 = deepspeed_json(tiny("deepspeed.precision=bfloat16"))["torch_autocast"]
    assert bfloat16 == {"enabled": True, "dtype": "bfloat16"}


def test_auto_is_filled_and_the_rest_passes(tiny: Any) -> None:
    """ "auto" takes our value; keys that are the user's own arrive as they are."""
    own = "{overlap_comm: true, stage: auto, offload_optimizer: {device: cpu}}"
    config = tiny(
        f"deepspeed.config.zero_optimization={own}",
        "deepspeed.config.gradient_clipping=auto",
        "deepspeed.config.steps_per_print=50",
        "deepspeed.config.wall_clock_breakdown=true",
    )
    json = deepspeed_json(config)
    assert json["zero_optimization"] == {
        "stage": 1,
        "overlap_comm": True,
        "offload_optimizer": {"device": "cpu"},
    }
    assert json["gradient_clipping"] == 1.0
    assert json["steps_per_print"] == 50
    assert json["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("gradient_cliping: 1.0", "gradient_cliping: unknown key; did you mean gradient_clipping?"),
        ("train_batch_size: 9", "train_batch_size: 9 contradicts 8 from the other fields"),
        ("zero_optimization: {stage: 3}", "zero_optimization.stage: 3 contradicts 1"),
        ("zero_optimization: 3", "zero_optimization: 3 contradicts"),
        ("torch_autocast: {enabled: true}", "torch_autocast.enabled: True contradicts False"),
        ("bf16: {enabled: true}", "bf16: bf16 casts every parameter"),
        ("fp16: {enabled: true}", "fp16: float16 would round"),
        ("optimizer: {type: Adam}", "optimizer: the optimizer has a group of its own"),
        ("scheduler: {type: WarmupLR}", "scheduler: set optimizer.warmup_steps"),
        ("zero_optimization: {offload_param: {device: cpu}}", "no place in a checkpoint"),
        ("zero_optimization: {offload_optimizer: {device: nvme}}", "nvme is not supported"),
        ("zero_optimization: {mics_shard_size: 2}", "mics_shard_size: checkpoints know"),
        ("aio: {block_size: auto}", 'aio.block_size: "auto" has no source'),
    ],
)
def test_refuses(tiny: Any, own: str, expected: str) -> None:
    """What DeepSpeed would accept in silence, or fail on in a worker, is named at submission."""
    with pytest.raises(InputError) as caught:
        deepspeed_json(tiny(f"deepspeed.config={{{own}}}"))
    assert expected in str(caught.value)


def test_refuses_all_at_once(tiny: Any) -> None:
    """Every problem is in the message."""
    with pytest.raises(InputError) as caught:
        deepspeed_json(tiny("deepspeed.config={bf16: {}, trian: 1, train_batch_size: 3}"))
    assert len(str(caught.value).splitlines()) == 4
