"""What the loss costs beside the network: time of a training step, memory, keyed noise.

The opponent is the same loss written straight from the paper: a table of all 256 levels for the
reconstruction, with a one-hot target; every term brought to the host at each step; noise from
torch's generator. Both train the same network, in turns, in one process; medians are compared.

    OMP_NUM_THREADS=1 python -m pytest tests/benchmarks/test_loss_speed.py -m benchmark -s
"""

import math
import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vdm_core import VDM, DownsamplingUNet, LinearSchedule, UNet
from vdm_core.networks import parameter_count
from vdm_core.rng import Purpose, normal, stratified_times

pytestmark = pytest.mark.benchmark

BATCH, SHAPE, DIMS, ROUNDS = 32, (3, 32, 32), 3 * 32 * 32, 7
Loss = Callable[[VDM, int], Tensor]
IMAGES = torch.randint(
    256, (BATCH, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


class Scale(nn.Module):
    """A network of one weight: what is left is the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        return z * self.weight


def keyed_draws(step: int) -> dict[str, Tensor]:
    """Times and noise of a step, by global sample index."""
    indices = torch.arange(step * BATCH, (step + 1) * BATCH)
    return {
        "times": stratified_times(0, indices, BATCH),
        "noise": normal(0, Purpose.NOISE, indices, SHAPE),
        "noise_0": normal(0, Purpose.NOISE_0, indices, SHAPE),
    }


def plain_draws() -> dict[str, Tensor]:
    """The same from torch's generator."""
    return {
        "times": torch.rand(BATCH),
        "noise": torch.randn(BATCH, *SHAPE),
        "noise_0": torch.randn(BATCH, *SHAPE),
    }


def loss_of_this_project(vdm: VDM, step: int) -> Tensor:
    return vdm(IMAGES, **keyed_draws(step), decoder_radius=4).bits_per_dim(DIMS).mean()


def straightforward_loss(vdm: VDM, step: int) -> Tensor:
    """The three terms with the same network and schedule, as the paper writes them."""
    times, noise, noise_0 = plain_draws().values()
    ends = torch.tensor([0.0, 1.0])
    gamma_0, gamma_1 = vdm.schedule(ends[:1]).gamma, vdm.schedule(ends[1:]).gamma
    point = vdm.schedule(times)
    x = 2 * (IMAGES.float() + 0.5) / 256 - 1
    gamma = point.gamma.view(-1, 1, 1, 1)
    z_t = torch.sigmoid(-gamma).sqrt() * x + torch.sigmoid(gamma).sqrt() * noise
    answer = vdm.network(z_t, point.gamma, None)
    diffusion = 0.5 * point.slope * (noise - answer).square().sum((1, 2, 3))

    mean_1, variance_1 = torch.sigmoid(-gamma_1) * x.square(), torch.sigmoid(gamma_1)
    prior = 0.5 * (mean_1 + variance_1 - variance_1.log() - 1).sum((1, 2, 3))

    z_0 = x + (0.5 * gamma_0).exp() * noise_0
    levels = 2 * (torch.arange(256) + 0.5) / 256 - 1
    logits = -0.5 * (-gamma_0).exp() * (z_0[..., None] - levels).square()
    one_hot = F.one_hot(IMAGES.long(), 256)
    reconstruction = -(one_hot * logits.log_softmax(-1)).sum((1, 2, 3, 4))

    for term in (reconstruction, prior, diffusion):
        term.mean().item()
    return (reconstruction + prior + diffusion).mean() / (DIMS * math.log(2))


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(*runs: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each, taken alternately after one round to warm up."""
    rounds = [[seconds(run) for run in runs] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def training_step(vdm: VDM, loss: Loss) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(vdm.parameters(), foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(vdm, 0).backward()
        optimizer.step()

    return step


def peak_megabytes(run: Callable[[], object]) -> float:
    """The most memory that lives at once while it runs, by what the allocator reports."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20


def vdm_of(network: nn.Module) -> VDM:
    return VDM(network, LinearSchedule())


def test_both_losses_are_the_same_number() -> None:
    """The comparison is between equals: the same draws give the same bits/dim."""
    vdm = vdm_of(Scale())
    torch.manual_seed(0)
    draws = plain_draws()
    torch.manual_seed(0)
    torch.testing.assert_close(
        vdm(IMAGES, **draws).bits_per_dim(DIMS).mean(), straightforward_loss(vdm, 0)
    )


def test_time_of_a_training_step() -> None:
    """Prints the ratio of whole training steps, forward, backward and AdamW."""
    vdm = vdm_of(DownsamplingUNet(3, width=32))
    ours, theirs = in_turns(
        training_step(vdm, loss_of_this_project), training_step(vdm, straightforward_loss)
    )
    parameters = parameter_count(vdm) / 1e6
    print(f"\ntraining step, batch {BATCH} of 32 x 32 x 3, {parameters:.2f} M parameters:")
    print(f"  straightforward {theirs:.3f} s, here {ours:.3f} s: {theirs / ours:.2f} times faster")

    keyed, plain = in_turns(lambda: keyed_draws(0), plain_draws)
    print(
        f"  keyed times and noise {keyed * 1e3:.1f} ms, torch's {plain * 1e3:.1f} ms: "
        f"{(keyed - plain) / ours:.1%} of a step more"
    )


def test_time_and_memory_of_the_loss_alone() -> None:
    """Prints both for a network of one weight."""
    vdm = vdm_of(Scale())
    steps = [training_step(vdm, loss) for loss in (loss_of_this_project, straightforward_loss)]
    ours, theirs = in_turns(*steps)
    print("\nloss without a network, forward and backward:")
    print(f"  straightforward {theirs:.3f} s, here {ours:.3f} s: {theirs / ours:.1f} times faster")
    ours, theirs = (peak_megabytes(step) for step in steps)
    print(f"  straightforward {theirs:.0f} MiB, here {ours:.1f} MiB: 1/{theirs / ours:.1f}")


def test_bfloat16() -> None:
    """Prints bfloat16 / float32 with everything but the network in float32, and in bfloat16 the
    reconstruction from the levels that count / from a one-hot target over all 256.
    """
    vdm = vdm_of(UNet(3, width=64, blocks=4))

    def lowered(loss: Loss) -> Loss:
        return torch.autocast("cpu", torch.bfloat16)(loss)

    whole, ours, theirs = in_turns(
        training_step(vdm, loss_of_this_project),
        training_step(vdm, lowered(loss_of_this_project)),
        training_step(vdm, lowered(straightforward_loss)),
        rounds=3,
    )
    print(f"\ntraining step, {parameter_count(vdm) / 1e6:.2f} M parameters, full resolution:")
    print(f"  bfloat16 {ours:.3f} s, float32 {whole:.3f} s: {ours / whole:.2f}")
    print(f"  bfloat16 with a one-hot target {theirs:.3f} s: {ours / theirs:.2f}")
