"""Walking gamma back from noise to images.

A sampler is a plain generator over a denoiser, a falling grid of gammas and a source of noise; it
yields z after each step, and the last z is z_0. `sample` makes these three for a VDM and turns z_0
into pixels by p(x | z_0).
"""

from vdm_core.samplers.contract import Noise, Sampler
from vdm_core.samplers.first_order import ancestral, ddim
from vdm_core.samplers.generate import SamplerName, evaluation_mode, sample, sample_z_0
from vdm_core.samplers.grid import Grid, map_grid, profile_grid, step_grid
from vdm_core.samplers.langevin import langevin_step, pc
from vdm_core.samplers.second_order import dpmpp_2m, heun

__all__ = [
    "Grid",
    "Noise",
    "Sampler",
    "SamplerName",
    "ancestral",
    "ddim",
    "dpmpp_2m",
    "evaluation_mode",
    "heun",
    "langevin_step",
    "map_grid",
    "pc",
    "profile_grid",
    "sample",
    "sample_z_0",
    "step_grid",
]
