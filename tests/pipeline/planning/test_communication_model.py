"""What the workers send, against the volumes that ZeRO's authors give."""

from typing import Any

import pytest

from pipeline.model.build import check_model
from pipeline.planning.communication import (
    Links,
    Message,
    Traffic,
    step_traffic,
    traffic_seconds,
)

PARAMETERS = 7_500_000_000


@pytest.mark.parametrize(("stage", "volume"), [(0, 2), (1, 2), (2, 2), (3, 3)])
def test_volumes_of_zero(stage: int, volume: int) -> None:
    """2, 2, 2 and 3 parameters' worth through a worker (Rajbhandari et al. 2020, section 7)."""
    many = 1_000_000
    traffic = step_traffic(
        PARAMETERS, many, stage, 1, Message(4, 4, 500_000_000, 10**9, scattered=True)
    )
    assert traffic.bytes == pytest.approx(4 * volume * PARAMETERS, rel=1e-5)


def test_accumulation_multiplies_what_is_sent_for_each_micro_batch() -> None:
    """Stages 0 and 1 wait for the last one; 2 reduces, and 3 reduces and gathers, each time."""
    message = Message(2, 2, 1000, 1000)

    def sent(stage: int, accumulation: int) -> float:
        return step_traffic(1000, 2, stage, accumulation, message).bytes / 500

    assert [sent(stage, 4) for stage in range(4)] == [4, 4 + 4, 16 + 4, 8 + 8]
    assert [sent(stage, 1) for stage in range(4)] == [4, 4 + 4, 4 + 4, 2 + 2]


def test_weights_that_are_not_kept_are_gathered_again() -> None:
    """A model of more than `reused` elements, once for each pass."""
    once = step_traffic(1000, 2, 3, 1, Message(2, 2, 1000, reused=1000)).bytes
    twice = step_traffic(1000, 2, 3, 1, Message(2, 2, 1000, reused=999)).bytes
    assert (once, twice) == (500 * (2 + 2), 500 * (2 + 4))


def test_one_worker_says_nothing() -> None:
    """Neither bytes nor latency."""
    assert step_traffic(10, 1, 3, 2, Message(4, 4, 5, 0)) == Traffic(0.0, 0)
    assert traffic_seconds(Traffic(0.0, 0), 1, Links(8, 1.0, 1.0, 1.0)) == 0.0


def test_the_slowest_link_decides() -> None:
    """Within a node its links; across nodes the network, and latency by powers of two."""
    links = Links(gpus_per_node=8, node_bytes=100.0, network_bytes=10.0, latency=0.5)
    assert traffic_seconds(Traffic(1000.0, 0), 8, links) == 10.0
    assert traffic_seconds(Traffic(1000.0, 0), 16, links) == 100.0
    assert traffic_seconds(Traffic(1000.0, 3), 16, links) == 106.0


@pytest.mark.slow
def test_the_real_engine_sends_what_the_model_says(launch: Any, tiny: Any, tmp_path: Any) -> None:
    """Bytes that two gloo ranks hand to their collectives, within 1 %.

    Of two workers an all-reduce moves what it is given, a gather or a reduce-scatter a third of its
    input and output together.
    """
    zero = "{reduce_bucket_size: 50000, stage3_param_persistence_threshold: 100}"
    cases = {
        f"{stage} {precision} {accumulation}": (
            stage,
            4 if precision == "float32" else 2,
            accumulation,
        )
        for stage in range(4)
        for precision in ("float32", "bfloat16")
        for accumulation in (1, 2)
    }
    configs = {
        name: tiny(
            "data.batch_size=16",
            f"data.micro_batch={8 // accumulation}",
            "cluster.workers=2",
            f"deepspeed.zero_stage={stage}",
            f"deepspeed.precision={name.split()[1]}",
            "model.network={kind: downsampling_unet, width: 32, multipliers: [1, 2], blocks: 1}",
            *([f"deepspeed.config={{zero_optimization: {zero}}}"] if stage else []),
        )
        for name, (stage, _, accumulation) in cases.items()
    }
    found = launch("traffic_ranks", 2, tmp_path / "ranks", **configs)
    parameters = check_model(configs["0 float32 1"].model, (1, 8, 8), 3, 256)
    for name, (stage, sent, accumulation) in cases.items():
        given = found[name]
        halves = given.get("allgather_base", 0) + given.get("reduce_scatter_base", 0)
        message = Message(sent if stage else 4, sent, 50_000, 10**9)
        expected = step_traffic(parameters, 2, stage, accumulation, message).bytes
        assert given["allreduce"] + halves / 3 == pytest.approx(expected, rel=0.01), name
