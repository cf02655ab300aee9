"""Submitted jobs: where their results must not go, and how Ray stops them."""

import pytest

from pipeline.cluster.submitted import check_submitted_paths, warn_of_short_stop
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.sample import SampleConfig
from pipeline.errors import InputError

COPY = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1"


def test_a_relative_output_of_a_submitted_job_is_refused_with_the_remedy():
    config = SampleConfig(root=COPY, model="/m", output="samples", per_class=1)
    with pytest.raises(InputError, match=r"output=samples .* absolute root=/shared/folder"):
        check_submitted_paths(config, "output")


@pytest.mark.parametrize("output", ["/shared/samples", "s3://bucket/samples"])
def test_absolute_paths_and_urls_pass(output):
    check_submitted_paths(SampleConfig(root=COPY, model="m", output=output, per_class=1), "output")


def test_a_field_left_out_passes():
    check_submitted_paths(EvaluateConfig(root=COPY, model="m", data="d"), "output")


@pytest.mark.parametrize(
    ("submitted", "patience", "warned"),
    [(True, None, True), (True, "15", True), (True, "40", False), (False, None, False)],
)
def test_a_stop_that_comes_before_the_grace_is_over_is_announced(
    monkeypatch, caplog, submitted, patience, warned
):
    """Ray's default is three seconds; a job that nobody submitted is not stopped by Ray."""
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv("RAY_JOB_STOP_WAIT_TIME_S", raising=False)
    if submitted:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    if patience:
        monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", patience)
    warn_of_short_stop(30)
    assert ("start the Ray head with RAY_JOB_STOP_WAIT_TIME_S=40 or more" in caplog.text) == warned
