"""The pictures show the data they were given: lines, limits and exact pixels."""

import io
import math

import numpy as np
import pytest
import torch

from pipeline.plots import elbo_figure, image_grid, profile_figure, schedule_figure
from pipeline.training.time_bins import TrainingProfile
from vdm_core.records import SchedulePoint


def _line(t, first, last):
    return SchedulePoint(first + (last - first) * t, torch.full_like(t, last - first))


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_schedule_figure_draws_gamma_snr_and_slope():
    """Each panel holds its quantity for the live and the EMA schedule and the reference."""
    t = torch.linspace(0, 1, 11)
    figure = schedule_figure(t, _line(t, -13.0, 5.0), _line(t, -12.0, 4.0), reference=(-10.0, 2.0))
    gamma, snr, slope = figure.axes
    drawn = {line.get_label(): line for line in gamma.lines}
    assert set(drawn) == {"learned", "EMA", "straight line"}
    np.testing.assert_allclose(drawn["learned"].get_ydata(), -13 + 18 * t.numpy(), atol=1e-5)
    np.testing.assert_allclose(drawn["straight line"].get_ydata(), -10 + 12 * t.numpy(), atol=1e-5)
    live = next(line for line in snr.lines if line.get_label() == "learned")
    np.testing.assert_allclose(live.get_ydata(), np.exp(13 - 18 * t.numpy()), rtol=1e-5)
    assert snr.get_yscale() == "log"
    assert sorted(line.get_ydata()[0] for line in slope.lines) == [12, 16, 18]
    assert all(axes.get_title(loc="left") and axes.get_xlabel() for axes in figure.axes)


def test_schedule_figure_of_maps_is_the_mean_in_a_band():
    """A pixel each of -13 + 18 t and -13 + 18 t^2: their mean between the two of them."""
    t = torch.linspace(0, 1, 11)
    gamma = -13 + 18 * torch.stack([t, t.square()], dim=1).view(11, 1, 1, 2)
    slope = 18 * torch.stack([torch.ones(11), 2 * t], dim=1).view(11, 1, 1, 2)
    figure = schedule_figure(t, SchedulePoint(gamma, slope), note="at latent 0")
    panel, snr, _ = figure.axes
    mean = gamma.flatten(1).mean(1).numpy()
    np.testing.assert_allclose(panel.lines[0].get_ydata(), mean, atol=1e-5)
    np.testing.assert_allclose(snr.lines[0].get_ydata(), np.exp(-mean), rtol=1e-4)
    (band,) = panel.collections
    corners = {(round(x, 3), round(y, 3)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert {(0.5, -4.0), (0.5, -8.5)} <= corners
    assert panel.get_title(loc="left").endswith("(mean, range), at latent 0")
    assert _png(figure)


def test_schedule_figure_needs_one_value_per_time():
    """A schedule sampled at other times is refused, not drawn askew."""
    with pytest.raises(ValueError, match="learned"):
        schedule_figure(torch.zeros(3), _line(torch.zeros(4), 0.0, 1.0))


def test_elbo_figure_stacks_to_the_total():
    """The stack's top edge is the sum of the terms, and a high start leaves the rest in sight."""
    steps = list(range(100))
    diffusion = [1000.0] + [3.0] * 99
    terms = {"prior": [0.002] * 100, "reconstruction": [0.01] * 100, "diffusion": diffusion}
    stack, each = elbo_figure(steps, terms).axes
    np.testing.assert_allclose(stack.lines[0].get_ydata(), np.array(diffusion) + 0.012)
    assert stack.get_ylim()[1] == pytest.approx(1.15 * 3.012)
    assert [line.get_label() for line in each.lines] == ["prior", "reconstruction", "diffusion"]
    assert "3.012 bits/dim" in stack.get_title(loc="left")


def test_elbo_figure_can_be_drawn_from_the_first_step_on():
    """One step, and a term that is exactly zero, render without a warning."""
    assert _png(elbo_figure([10], {"prior": [0.0], "reconstruction": [0.1], "diffusion": [3.0]}))
    with pytest.raises(ValueError, match="empty"):
        elbo_figure([], {"diffusion": []})


def test_profile_figure_has_the_diffusion_term_as_its_area():
    """2 bits/dim in all; over t the loss is density x width in γ; a bin without images is a gap."""
    profile = TrainingProfile(
        first_step=1, last_step=20, gammas=[-4.0, 0.0, 1.0, 2.0], images=[2000, 2000, 0],
        bits_per_gamma=[0.25, 1.0, math.nan], standard_error=[0.01, 0.02, math.nan],
    )  # fmt: skip
    figure = profile_figure(profile)
    over_gamma, over_time = figure.axes
    title = over_gamma.get_title(loc="left")
    assert "area 2.000 bits/dim (steps 1–20, 4,000 images)" in title
    (band, line) = over_gamma.patches
    np.testing.assert_allclose(line.get_data().values, [0.25, 1.0, np.nan])
    np.testing.assert_allclose(band.get_data().baseline, [0.23, 0.96, np.nan])
    np.testing.assert_allclose(over_time.patches[1].get_data().values, [3.0, 3.0, np.nan])
    assert _png(figure)


def test_grid_places_every_pixel():
    """Five 2x3 images in two columns at scale 2: each pixel is a 2x2 square, the rest white."""
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 2, 3), dtype=np.uint8)
    grid = image_grid(images, columns=2, scale=2)
    assert grid.shape == (2 * (3 * 4 + 2), 2 * (2 * 5 + 2), 3)
    untouched = np.ones(grid.shape[:2], dtype=bool)
    for i, image in enumerate(images):
        top, left = 2 * (2 + i // 2 * 4), 2 * (2 + i % 2 * 5)
        place = (slice(top, top + 4), slice(left, left + 6))
        expected = image.transpose(1, 2, 0).repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(grid[place], expected)
        untouched[place] = False
    assert (grid[untouched] == 255).all()


def test_grid_takes_gray_tensors_and_enlarges_small_images():
    """One channel becomes three equal ones, and 28 pixels are enlarged three times to 84."""
    grid = image_grid(torch.full((1, 1, 28, 28), 7, dtype=torch.uint8), columns=1)
    assert grid.shape == (96, 96, 3)
    assert (grid[6:90, 6:90] == 7).all()


def test_row_names_stand_left_of_the_unchanged_grid():
    """Names add a margin with ink in each row's height and change no pixel of the grid."""
    images = np.zeros((4, 3, 32, 32), np.uint8)
    plain, named = image_grid(images, 2), image_grid(images, 2, row_names=["cat", "ankle boot"])
    room = named.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(named[:, room:], plain)
    half = named.shape[0] // 2
    assert (named[:half, :room] < 100).any()
    assert (named[half:, :room] < 100).any()
    with pytest.raises(ValueError, match="1 row names for 2 rows"):
        image_grid(images, 2, row_names=["cat"])


@pytest.mark.parametrize("images", [np.zeros((1, 3, 4, 4)), np.zeros((3, 4, 4), np.uint8)])
def test_grid_refuses_what_is_no_image(images):
    """Floats and single images are named in the error."""
    with pytest.raises(ValueError, match=r"pass uint8 \(N,C,H,W\)"):
        image_grid(images, 1)
