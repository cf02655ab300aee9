"""A whole forecast against runs whose hours were published."""

import math

import pytest

from pipeline.config.plan import HardwareConfig
from pipeline.planning.communication import Message
from pipeline.planning.forecast import Forecast, StepLoad, Workload, forecast
from pipeline.planning.memory import DeviceMemory, Sharding

NOTHING = DeviceMemory(0, 0, 0, 0, 0, 0)


def hardware(**given: float) -> HardwareConfig:
    """Nodes of eight GPUs; whatever is not given takes no time and never fails."""
    free = {
        "memory_gib": 1, "peak_tflops": 1, "achieved": 1, "memory_gbytes_per_second": 1,
        "node_gbytes_per_second": 1e9, "network_gbytes_per_second": 1e9,
        "storage_gbytes_per_second": 1e9, "host_gbytes_per_second": 1e9,
        "failures_per_1000_node_days": 0, "price_per_gpu_hour": 1,
    }  # fmt: skip
    return HardwareConfig.model_validate(free | given)


def test_imagenet_in_one_hour() -> None:
    """From 29 hours on 8 GPUs to one on 256, over 50 Gbit/s a node, at about 90 % efficiency
    (Goyal et al. 2017, sections 4 and 5): the model says 1.03 hours and 88 %.
    """
    epochs, images, parameters = 90, 1_281_167, 25_600_000
    on_8 = 29 * 3600 / (epochs * images / 256)  # seconds of a step of 256 images
    work = Workload(
        parameters, 1, epochs * images, 0.0, update_seconds=0.0,
        message=Message(4, 4, bucket=10**9, reused=0),
    )  # fmt: skip

    def on(gpus: int) -> Forecast:
        cluster = hardware(network_gbytes_per_second=6.25)
        load = StepLoad(32 * gpus, passes=on_8, reads=1)
        return forecast(work, load, Sharding(0, gpus, 1, 1), NOTHING, cluster)

    assert on(8).days * 24 == pytest.approx(29, rel=0.001)
    assert on(256).days * 24 == pytest.approx(1, rel=0.06)
    assert on(8).step / on(256).step == pytest.approx(0.9, abs=0.04)


def test_the_gpu_hours_of_llama_3() -> None:
    """405 billion parameters, 15.6 trillion tokens at 400 TFLOP/s of a GPU, 419 unexpected failures
    in 54 days of 16,384 GPUs (Dubey et al. 2024): 30.84 million hours by its model card. The
    published rate has the communication in it.
    """
    rate = 419 / 54 / (16_384 / 8) * 1000
    work = Workload(
        405_000_000_000, 6 * 405_000_000_000, 15_600_000_000_000, 0.0,
        update_seconds=0.0, message=Message(2, 2, bucket=10**9, reused=0),
    )  # fmt: skip
    cluster = hardware(
        failures_per_1000_node_days=rate, restart_seconds=600, storage_gbytes_per_second=2000
    )
    tokens, gpus = 16_000_000, 16_384
    load = StepLoad(tokens, passes=tokens / gpus * work.flops / 400e12, reads=1)
    found = forecast(work, load, Sharding(3, 16_384, 0, 1), NOTHING, cluster)
    assert found.mtbf == pytest.approx(54 * 86400 / 419)
    assert 0.9 < found.goodput < 1
    assert found.cost == pytest.approx(30.84e6, rel=0.1)


def test_images_that_are_read_again_are_paid_for() -> None:
    """Eight reads of each image: eight times the bytes and the time of the data."""
    work = Workload(1000, 1, 100, 10.0, update_seconds=0.0, message=Message(4, 4, 1000, 0))
    cluster = hardware(storage_gbytes_per_second=1e-6)
    once, often = (
        forecast(work, StepLoad(10, 1e-8, reads), Sharding(0, 1, 1, 1), NOTHING, cluster)
        for reads in (1, 8)
    )
    assert (once.data, often.data) == pytest.approx((0.1, 0.8))
    assert often.bound == "data"
    assert math.isclose(often.step, 0.8)
    assert often.shard_bytes_per_second == pytest.approx(once.shard_bytes_per_second)
