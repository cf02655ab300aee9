"""What the workers tell each other in a step, and how long that takes.

Ring collectives of S bytes among N workers: a reduce-scatter or an all-gather moves (N - 1)/N S
through each worker, an all-reduce twice that (Patarasuk and Yuan 2009). Which of them a ZeRO stage
needs is in Rajbhandari et al. 2020, section 7; DeepSpeed does more at stages 1 and 2.
"""

import math
from typing import NamedTuple

from pipeline.planning.memory import ZeroStage


class Traffic(NamedTuple):
    """In one step: `bytes` into each worker, and as many out, in so many `collectives`."""

    bytes: float
    collectives: int


class Links(NamedTuple):
    """`node_bytes`: bytes/s in and out of a GPU within its node of `gpus_per_node`.

    `network_bytes`: bytes/s of a whole node to others, `latency`: seconds from GPU to GPU.
    """

    gpus_per_node: int
    node_bytes: float
    network_bytes: float
    latency: float


class Message(NamedTuple):
    """`gradient`, `weight`: bytes of an element that is sent; `bucket`: elements sent at once.

    `reused`: stage 3 keeps weights that are needed again within so many elements. `scattered`:
    stages 1 and 2 send each worker its part of the gradient alone; DeepSpeed's default is that all
    workers get all of it (`use_multi_rank_bucket_allreduce`).
    """

    gradient: int
    weight: int
    bucket: int
    reused: int
    scattered: bool = False


def step_traffic(
    parameters: int, workers: int, stage: ZeroStage, accumulation: int, message: Message
) -> Traffic:
    """What an optimizer step of `accumulation` micro-batches moves.

    Stage 0 all-reduces the gradient of a step. So does stage 1, or it reduces it to its owners, and
    gathers the float32 weights; stage 2 reduces after each micro-batch. So does stage 3, to the
    owners alone; it gathers the weights for each pass. DeepSpeed keeps those that it soon needs
    again, so that a model of no more than `message.reused` elements is gathered once for both.
    """
    reductions = accumulation if stage >= 2 else 1
    gathers = {0: 0, 1: 1, 2: 1, 3: accumulation * (1 if parameters <= message.reused else 2)}[
        stage
    ]
    weight = message.weight if stage == 3 else 4
    twice = stage == 0 or (stage < 3 and not message.scattered)
    sent = (2 if twice else 1) * reductions * message.gradient + gathers * weight
    rounds = -(-parameters // message.bucket) * (reductions + gathers)
    share = (workers - 1) / workers
    return Traffic(share * sent * parameters, rounds if workers > 1 else 0)


def traffic_seconds(traffic: Traffic, workers: int, links: Links) -> float:
    """How long the traffic takes with nothing else to wait for.

    Within a node at the speed of its links; across nodes at that of the slower of a GPU's links
    and a node's network, because the rings of all GPUs of a node share it. The latency of a
    collective grows with log2 N, as that of trees does.
    """
    across = workers > links.gpus_per_node
    speed = min(links.node_bytes, links.network_bytes) if across else links.node_bytes
    hops = math.ceil(math.log2(workers)) if workers > 1 else 0
    return traffic.bytes / speed + traffic.collectives * hops * links.latency
