"""The ladder from a VAE to a VDM: one latent, many, a Markov chain of them, and the chain fixed.

All report the same terms in the same units, so that they compare on one data set in one table.
`docs/ladder.md` leads from the derivation's equations to these files.
"""

from vdm_core.ladder.hierarchical import HierarchicalVAE
from vdm_core.ladder.markov import MarkovEncoder, markov_bound
from vdm_core.ladder.sample import sample_vae
from vdm_core.ladder.vae import VAE
from vdm_core.ladder.vdm_chain import vdm_encoder, vdm_markov_bound

__all__ = [
    "VAE",
    "HierarchicalVAE",
    "MarkovEncoder",
    "markov_bound",
    "sample_vae",
    "vdm_encoder",
    "vdm_markov_bound",
]
