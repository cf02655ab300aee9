"""Results of a submitted job must not go to the temporary copy that Ray deletes."""

import pytest

from pipeline.cluster.submitted import check_submitted_paths
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
