"""Waiting for an autoscaling cluster to grow to what a job needs."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ray.autoscaler.sdk import request_resources

from pipeline.errors import InputError

_LOOK_SECONDS = 2.0
_SAY_SECONDS = 60.0
log = logging.getLogger(__name__)


def wait_for_nodes(
    enough: Callable[[], None], bundles: Sequence[Mapping[str, float]], seconds: float
) -> None:
    """Return when `enough()` no longer raises; until then ask the autoscaler for `bundles`.

    A bundle is what must fit on one node ({"CPU": 4, "GPU": 1}). The request is withdrawn at the
    end, so that the nodes stay only as long as they have work. Without an autoscaler it is
    waited all the same: nodes may be added by hand.

    Raises:
        InputError: what `enough` raised last, after `seconds`; at once if they are 0.
    """
    deadline = time.monotonic() + seconds
    say = time.monotonic()
    asked = False
    try:
        while True:
            try:
                return enough()
            except InputError as error:
                if time.monotonic() >= deadline:
                    raise
                if not asked:
                    request_resources(bundles=[dict(bundle) for bundle in bundles])
                    asked = True
                if time.monotonic() >= say:
                    left = deadline - time.monotonic()
                    log.info("waiting for nodes, at most %.0f s more: %s", left, error)
                    say += _SAY_SECONDS
            time.sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
    finally:
        if asked:
            request_resources(bundles=[])
