import torch
from torch import nn

from vdm_core.networks.cost import flops_per_image, parameter_count


class Counted(nn.Module):
    """One 3x3 convolution from 2 to 4 channels, keeping the denoiser contract."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, z, gamma, labels=None):
        return self.conv(z)


def test_a_convolution_costs_two_operations_per_weight_and_pixel():
    assert flops_per_image(Counted(), (2, 5, 7)) == 2 * (4 * 2 * 9) * 35


def test_counting_leaves_the_network_where_it_is():
    network = Counted()
    flops_per_image(network, (2, 5, 7))
    assert network.conv.weight.device == torch.device("cpu")


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 5)
    assert parameter_count(nn.Sequential(layer, layer)) == 3 * 5 + 5
