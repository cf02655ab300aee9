"""A sweep: one set for each combination, with the same noise, and a comparison of them."""

from dataclasses import asdict

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.sampling.draw import claim_all
from pipeline.sampling.finish import finish_set
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.output_folder import claim, finished_shards
from pipeline.sampling.plan import load_for, plan_set
from pipeline.sampling.sweep import cell_result, class_spread, sweep_cells, sweep_identity
from pipeline.sampling.sweep_report import sweep_figure, write_table
from pipeline.storage import open_storage

SWEEP = {"guidance_scales": (1.0, 3.0), "samplers": ("ddim", "heun")}


def claim_top(config, model) -> None:
    output = open_storage(config.path(config.output))
    claim(output, sweep_identity(config, model), overwrite=config.overwrite)


@pytest.fixture
def sweep(request_of):
    """sweep(): a sweep of four cells, drawn by one actor; its claimed sets."""

    def drawn(**changes):
        config = request_of("s", per_class=4, **({"sweep": SWEEP} | changes))
        model = load_for(config)
        claim_top(config, model)
        sets = claim_all([plan_set(cell, model) for cell in sweep_cells(config)])
        generator = ShardGenerator([one.cell() for one in sets], model.place.url)
        for one in sets:
            for task in one.missing:
                generator(asdict(task))
            one.done = finished_shards(one.plan.output, one.plan_sha256)
            finish_set(one.plan, one.done)
        return sets

    return drawn


def test_cells_are_all_combinations_with_the_rest_as_asked(request_of):
    config = request_of(
        "s", sampler="ancestral", sweep={"guidance_scales": (0, 2.5), "steps": (3, 9)}
    )
    cells = sweep_cells(config)
    assert [(c.steps, c.guidance_scale) for c in cells] == [(3, 0), (3, 2.5), (9, 0), (9, 2.5)]
    assert {c.sampler for c in cells} == {"ancestral"}
    assert [c.output.rpartition("/")[2] for c in cells][:2] == [
        "ancestral-3-w0",
        "ancestral-3-w2.5",
    ]
    assert sweep_cells(request_of("s")) == [request_of("s")]


def test_each_cell_is_the_set_that_its_own_request_gives(sweep, draw):
    """Same ids, same noise: only what is swept differs."""
    cells = sweep()
    alone = draw("alone", per_class=4, sampler="heun", guidance_scale=3.0)
    assert [row.sha256 for row in alone.shards] == [
        one.row.sha256 for one in cells[3].done.values()
    ]


def test_cells_are_compared_in_a_table_and_a_picture(sweep, tmp_path):
    results = [cell_result(one) for one in sweep()]
    assert [(r.sampler, r.guidance_scale, r.nfe) for r in results] == [
        ("ddim", 1, 3), ("ddim", 3, 6), ("heun", 1, 6), ("heun", 3, 12),
    ]  # fmt: skip
    assert all(r.samples == 12 and r.samples_per_second > 0 and r.class_std > 0 for r in results)
    output = open_storage(str(tmp_path / "report"))
    text = write_table(output, results)
    assert "| heun | 3 | 3 | 12 | 12 |" in text
    table = pq.read_table(tmp_path / "report" / "sweep.parquet").to_pylist()
    assert table == [asdict(result) for result in results]
    assert pa_csv.read_csv(tmp_path / "report" / "sweep.csv")["nfe"].to_pylist() == [3, 6, 6, 12]
    panels = sweep_figure(results).axes
    assert [panel.get_title() for panel in panels] == ["w = 1", "w = 3", "", ""]
    assert [panel.get_ylabel() for panel in panels][::2] == ["ddim, 3 steps", "heun, 3 steps"]
    shown = np.asarray(panels[0].images[0].get_array())
    assert shown.shape == ((3 * 10 + 2) * 8, (5 * 10 + 2) * 8, 3)


def test_spread_is_the_deviation_between_images_of_a_class(draw):
    samples = draw("s", per_class=4)
    images = samples.images(range(12)).astype(float)
    expected = np.mean([images[label::3].std(axis=0).mean() for label in range(3)])
    assert class_spread(samples) == pytest.approx(expected)


def test_combinations_may_be_added_and_other_settings_may_not(sweep, request_of):
    """What is there is kept; a change outside the sweep is refused by name."""
    before = {one.plan.output.url: one.done for one in sweep()}
    more = sweep(sweep=SWEEP | {"samplers": ("ddim", "heun", "pc")})
    assert [len(one.missing) for one in more] == [0, 0, 0, 0, 2, 2]
    assert all(before[one.plan.output.url] == one.done for one in more[:4])
    config = request_of("s", per_class=4, sweep=SWEEP, seed=1)
    with pytest.raises(InputError, match="seed: 0 there, 1 now"):
        claim_top(config, load_for(config))
    single = request_of("s", per_class=4)
    with pytest.raises(InputError, match="sweep: True there, None now"):
        claim_all([plan_set(single, load_for(single))])
