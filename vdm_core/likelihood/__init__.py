"""How likely a trained model finds images: two kinds of figure, under two kinds of name.

The ``*_bound`` functions go by the model's own decoder, -log p(x) <= a bound: over all T steps, in
continuous time, and tightened by importance weights. ``ode_nll`` is the figure of another model
with the same network, the probability-flow ODE on dequantised pixels. The two are not comparable to
the last digit. All answers are per example in nats, and every draw belongs to the example's index.
"""

from vdm_core.likelihood.bounds import continuous_bound, discrete_bound
from vdm_core.likelihood.dequantise import Dequantisation, Dequantised, dequantise
from vdm_core.likelihood.importance import importance_weighted, importance_weighted_bound
from vdm_core.likelihood.ode import Divergence, ode_log_density, ode_nll
from vdm_core.likelihood.profile import (
    Estimate,
    Profile,
    error_profile,
    estimate,
    profile,
    profile_loss,
)
from vdm_core.likelihood.solvers import DormandPrince, RungeKutta4, Solver

__all__ = [
    "Dequantisation",
    "Dequantised",
    "Divergence",
    "DormandPrince",
    "Estimate",
    "Profile",
    "RungeKutta4",
    "Solver",
    "continuous_bound",
    "dequantise",
    "discrete_bound",
    "error_profile",
    "estimate",
    "importance_weighted",
    "importance_weighted_bound",
    "ode_log_density",
    "ode_nll",
    "profile",
    "profile_loss",
]
