"""A Ray cluster of several nodes on this machine, shared, and runs on it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_runs import CURVES, STEPS, Curves, Run
from pipeline.cluster.local_head import choose_ports, local_head
from ray_nodes import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of one CPU each beside the head."""
    port = choose_ports(None, None).head
    os.environ.setdefault("RAY_agent_register_timeout_ms", "100000")  # a busy machine
    os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", "300")
    with local_head(0, port=port) as head:
        here = Cluster(head, port, tmp_path_factory.mktemp("cluster"))
        here.add_node()
        here.add_node()
        try:
            yield here
        finally:
            for node in here.nodes:
                node.kill()


@pytest.fixture
def run(
    cluster: Cluster, configure: Any, pack: Any, tmp_path: Path
) -> Iterator[Callable[..., Run]]:
    """run("key=value", …): a run of 120 steps on two workers, checkpoints at 40, 80 and 120."""

    made: list[Run] = []

    def make(*overrides: str, broken: tuple[int, ...] = ()) -> Run:
        configure(tmp_path)
        pack(tmp_path / "set", broken=broken)
        made.append(Run(tmp_path, cluster, overrides))
        return made[-1]

    yield make
    for here in made:
        here.end()


@pytest.fixture(scope="session")
def undisturbed(
    cluster: Cluster, configure: Any, pack: Any, tmp_path_factory: pytest.TempPathFactory
) -> Curves:
    """The curves of such a run that nothing happened to: each step once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    configure(folder)
    pack(folder / "set")
    reference = Run(folder, cluster, ())
    reference.finish(reference.start())
    curves = reference.curves()
    for name in CURVES:
        assert [step for step, _ in curves[name]] == [*range(1, STEPS + 1)], name
    return curves
