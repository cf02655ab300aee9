"""The network (or networks) compiled by torch, where the configuration asks for it.

Nothing else: it is nearly all of the arithmetic. The schedule, the decoder and the terms of
the ELBO stay as they are written, in float32, and the weights keep their names.
"""

import os
import shutil
from collections.abc import Iterable

from torch import nn

from pipeline.errors import InputError
from pipeline.training.agreement import raise_together


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Compile in place, each as one graph for a shape of the input, at its first call. Collective.

    What would cut the graph in two is an error there, and another shape a second graph: the
    micro-batches of a run have one shape.

    Raises:
        AgreedInputError: a worker's machine has no C++ compiler.
    """
    raise_together(no_compiler())
    for network in networks:
        network.compile(fullgraph=True, dynamic=False)


def no_compiler() -> InputError | None:
    """What to tell the user if this machine has no C++ compiler, which torch.compile calls."""
    names = [os.environ.get("CXX", "g++"), "clang++"]
    if any(map(shutil.which, names)):
        return None
    return InputError(
        f"deepspeed.compile needs a C++ compiler on every worker, and {os.uname().nodename} has "
        f"none of {', '.join(names)}: install one (Debian: g++), set CXX, or leave "
        "deepspeed.compile out"
    )
