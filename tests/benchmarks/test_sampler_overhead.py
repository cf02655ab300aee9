"""What sampling costs beyond the network calls it makes, on the CPU, and beside `diffusers`."""

import warnings
from statistics import median
from time import process_time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vdm_core import VDM, ClassifierFree, DownsamplingUNet, LinearSchedule, sample
from vdm_core.networks.cost import parameter_count

SHAPE, REPEATS = (1, 28, 28), 5
STEPS = {1: 20, 16: 5, 64: 2}


def seconds(work):
    """CPU time, which other processes on the machine disturb less than the wall's."""
    start = process_time()
    work()
    return process_time() - start


def ratio(reference, work):
    """Median of `work`'s time over that of `reference`, in alternation, after one of each."""
    reference(), work()
    pairs = [(seconds(reference), seconds(work)) for _ in range(REPEATS)]
    return median(b / a for a, b in pairs), median(a for a, _ in pairs)


@pytest.fixture(scope="module")
def vdm():
    network = DownsamplingUNet(1, width=40, multipliers=(1, 2), classes=10)
    print(f"\n{parameter_count(network):,} parameters, images {SHAPE}")
    return VDM(network, LinearSchedule()).eval()


def bare_calls(network, rows, calls):
    z, gamma, labels = torch.randn(rows, *SHAPE), torch.zeros(rows), torch.arange(rows) % 10

    @torch.no_grad()
    def bare():
        for _ in range(calls):
            network(z, gamma, labels)

    return bare


def sampling(vdm, batch, **options):
    ids, labels = torch.arange(batch), torch.arange(batch) % 10
    return lambda: sample(vdm, ids, labels, shape=SHAPE, steps=STEPS[batch], **options)


@pytest.mark.benchmark
@pytest.mark.parametrize("batch", [1, 16, 64])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp_2m", "heun", "pc"])
def test_loop_over_bare_network_calls(vdm, sampler, batch):
    """The same number of calls at the same batch."""
    calls = STEPS[batch] * (2 if sampler in ("heun", "pc") else 1)
    found, reference = ratio(
        bare_calls(vdm.network, batch, calls), sampling(vdm, batch, sampler=sampler)
    )
    print(
        f"{sampler}, batch {batch}: {calls} calls take {1e3 * reference:.0f} ms; "
        f"sampling / bare calls {found:.3f}"
    )


@pytest.mark.benchmark
@pytest.mark.parametrize("batch", [1, 16, 64])
def test_guided_over_unguided(vdm, batch):
    """Classifier-free guidance at w = 2 over the plain sampler, and over bare calls of 2 B."""
    guided = sampling(vdm, batch, guidance=ClassifierFree(2.0))
    over_plain, _ = ratio(sampling(vdm, batch), guided)
    over_bare, _ = ratio(bare_calls(vdm.network, 2 * batch, STEPS[batch]), guided)
    print(
        f"classifier-free, batch {batch}: guided / unguided {over_plain:.3f}, "
        f"guided / bare calls of batch {2 * batch} {over_bare:.3f}"
    )


class Unet2D(nn.Module):
    """Our network as a pipeline of `diffusers` calls its own: t for γ, an answer with `sample`."""

    def __init__(self, network, dtype=torch.float32):
        super().__init__()
        self.network, self.dtype, self.device = network, dtype, torch.device("cpu")
        self.config = SimpleNamespace(in_channels=SHAPE[0], sample_size=SHAPE[1])

    def forward(self, z, t, **_):
        gamma = torch.full((len(z),), float(t) / 100 - 5)
        return SimpleNamespace(sample=self.network(z, gamma, torch.arange(len(z)) % 10))


def diffusers_pipeline(name, network):
    """Theirs with our network; their default noise schedule, as only speed is compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers", reason="pip install -e .[compare]")
    scheduler = getattr(diffusers, f"{name}Scheduler")()
    pipeline = getattr(diffusers, f"{name}Pipeline")
    made = pipeline(unet=Unet2D(network), scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("batch", [1, 16, 64])
@pytest.mark.parametrize(("name", "sampler"), [("DDPM", "ancestral"), ("DDIM", "ddim")])
def test_against_diffusers(vdm, name, sampler, batch):
    """The same network, called as often at the same batch, to arrays of pixels."""
    pipeline = diffusers_pipeline(name, vdm.network)

    def theirs():
        return pipeline(batch_size=batch, num_inference_steps=STEPS[batch], output_type="np")

    found, reference = ratio(theirs, sampling(vdm, batch, sampler=sampler))
    print(f"{name}Pipeline, batch {batch}: {1e3 * reference:.0f} ms; ours / theirs {found:.3f}")
