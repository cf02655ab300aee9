"""Whether every worker sees the same storage: a local folder is a different one on each node."""

import secrets
import socket
from collections.abc import Callable

import torch.distributed as dist

from pipeline.errors import InputError
from pipeline.storage import Location
from pipeline.training.agreement import from_rank_zero, raise_together


def check_shared(run: Location) -> None:
    """Rank 0 leaves a file in the run's folder; every rank looks for it. Collective.

    Raises:
        AgreedInputError: a rank does not see it, or the folder cannot be written; on all ranks.
    """
    token = run / f"seen-by-all-{from_rank_zero(secrets.token_hex(4))}"
    first = dist.get_rank() == 0
    raise_together(_problem(lambda: token.write_bytes(b"") if first else None))
    try:
        raise_together(_problem(lambda: _look(token, run)))
    finally:
        if first:
            token.delete()
    dist.barrier()


def _look(token: Location, run: Location) -> None:
    if token.size() is None:
        raise InputError(
            f"{run} on {socket.gethostname()} is not the folder that worker 0 writes to; give a "
            "storage_path that all nodes share: a mounted folder, s3:// or gs://"
        )


def _problem(act: Callable[[], None]) -> InputError | None:
    try:
        act()
    except InputError as error:
        return error
    return None
