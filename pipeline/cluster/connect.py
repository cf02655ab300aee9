"""Ray: connecting to a cluster, or starting one on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.errors import InputError


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster of `RAY_ADDRESS` (set inside a submitted job), or start a local one.

    A cluster that was started here is stopped at the end; another one is only left. Within another
    `connected` it is that one's connection, which stays.

    Raises:
        InputError: there is no cluster at `RAY_ADDRESS`, or it is that of a jobs server.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS={address} is a jobs server, to which jobs are submitted: put `ray job "
            "submit --working-dir . --` before this command, or unset RAY_ADDRESS to run it on "
            "this machine"
        )
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}; start one, or unset "
            "RAY_ADDRESS to run on this machine"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
