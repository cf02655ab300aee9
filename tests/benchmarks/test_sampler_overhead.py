"""What sampling costs beyond the network calls it makes, on the CPU."""

from statistics import median
from time import process_time

import pytest
import torch

from vdm_core import VDM, ClassifierFree, DownsamplingUNet, LinearSchedule, sample
from vdm_core.networks.cost import parameter_count

BATCH, SHAPE, STEPS, REPEATS = 16, (1, 28, 28), 5, 7


def seconds(work):
    """CPU time, which other processes on the machine disturb less than the wall's."""
    start = process_time()
    work()
    return process_time() - start


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("sampler", "guidance"),
    [
        ("ancestral", None),
        ("ancestral", ClassifierFree(2.0)),
        ("ddim", None),
        ("dpmpp_2m", None),
        ("heun", None),
        ("pc", None),
    ],
)
def test_sampler_overhead(sampler, guidance):
    """Prints the time of `sample` over that of its bare network calls, alternating, medians."""
    network = DownsamplingUNet(1, width=40, multipliers=(1, 2), classes=10)
    vdm = VDM(network, LinearSchedule()).eval()
    ids, labels = torch.arange(BATCH), torch.arange(BATCH) % 10
    calls = STEPS * (2 if sampler in ("heun", "pc") else 1)
    rows = BATCH * (2 if guidance else 1)
    z, gamma, all_labels = torch.randn(rows, *SHAPE), torch.zeros(rows), labels.repeat(2)[:rows]

    @torch.no_grad()
    def bare():
        for _ in range(calls):
            network(z, gamma, all_labels)

    def sampling():
        sample(vdm, ids, labels, shape=SHAPE, steps=STEPS, sampler=sampler, guidance=guidance)

    bare(), sampling()
    pairs = [(seconds(bare), seconds(sampling)) for _ in range(REPEATS)]
    network_s, sampling_s = (median(times) for times in zip(*pairs, strict=True))
    print(
        f"\n{sampler}, {guidance or 'plain'}: {parameter_count(network):,} parameters, "
        f"batch {BATCH}, {calls} calls: network {1e3 * network_s:.1f} ms, sampling "
        f"{1e3 * sampling_s:.1f} ms, ratio {median(b / a for a, b in pairs):.3f}"
    )
