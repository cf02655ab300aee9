"""Mixed and balanced sets over real tars: exact like one set, for any workers and restarts."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.data import ComponentConfig, SelectConfig, SplitConfig
from pipeline.config.train import DataConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixing import Mixing
from pipeline.data.mixture import Component, Mixture, open_mixture, single
from pipeline.data.stream import TrainingStream
from pipeline.data.writer import finish_dataset
from pipeline.errors import InputError
from pipeline.training.preflight import plan_training

MakeDataset = Callable[..., ShardedDataset]
Samples = dict[int, tuple[str, int]]  # global index -> key, label


def stream(mixture: Mixture, **changes: Any) -> TrainingStream:
    cut: dict[str, Any] = {
        "seed": 3, "global_batch": 12, "rank": 0, "world_size": 1, "micro_batch": 12, "lanes": 4,
        "shuffle_window": 5, "prefetch": 0,
    }  # fmt: skip
    return TrainingStream(mixture, **(cut | changes))


def samples(mixture: Mixture, micro_batches: int, **changes: Any) -> Samples:
    """What the first batches of a stream hold."""
    opened, found = stream(mixture, **changes), Samples()
    for batch in itertools.islice(iter(opened), micro_batches):
        assert batch.valid.all()
        assert batch.labels is not None
        what = zip(batch.keys, batch.labels.tolist(), strict=True)
        found.update(zip(batch.indices.tolist(), what, strict=True))
    opened.close()
    return found


def mixed(datasets: list[ShardedDataset], weights: list[int]) -> Mixture:
    parts = zip(datasets, weights, strict=True)
    return Mixture(tuple(Component(*part) for part in parts), datasets[0].info)


def opened(*components: ComponentConfig, **options: Any) -> Mixture:
    data = DataConfig(train=components, batch_size=1, **options)
    return open_mixture([c.path for c in components], data)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    parts=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=2, max_size=3),
    lanes=st.integers(1, 7),
    window=st.integers(1, 12),
    split=st.sampled_from([(1, 12), (2, 3), (3, 2), (4, 3), (12, 1)]),
    steps_before=st.integers(0, 6),
)
def test_every_sets_epochs_are_exact_and_any_workers_and_restarts_give_the_same_global_batches(
    make_dataset: MakeDataset,
    parts: list[tuple[int, int]],
    lanes: int,
    window: int,
    split: tuple[int, int],
    steps_before: int,
) -> None:
    """Also of sets that are smaller than a batch, which then come several times within one."""
    sizes, weights = [size for size, _ in parts], [weight for _, weight in parts]
    mixture = mixed([make_dataset([size], 3, f"set{size}") for size in sizes], weights)
    order = {"lanes": lanes, "shuffle_window": window}
    steps = 8
    whole = samples(mixture, steps, **order)
    assert sorted(whole) == list(range(12 * steps))

    mixing = Mixing(weights, seed=3, lanes=lanes)
    sets, places = mixing.places(np.arange(12 * steps))
    complete = 12 * steps // (lanes * mixing.rows) * lanes * mixing.shares  # whole windows
    for number, size in enumerate(sizes):
        at = dict(zip(places[sets == number], np.flatnonzero(sets == number), strict=True))
        for first in range(0, complete[number] - size + 1, size):
            epoch = [whole[at[place]][0].split("/")[1] for place in range(first, first + size)]
            assert sorted(map(int, epoch)) == list(range(size))

    world_size, micro_batch = split
    cut = {"world_size": world_size, "micro_batch": micro_batch, "start": 12 * steps_before}
    again: Samples = {}
    for rank in range(world_size):
        count = 12 // world_size // micro_batch * (steps - steps_before)
        again |= samples(mixture, count, rank=rank, **cut, **order)
    assert again == {index: whole[index] for index in range(12 * steps_before, 12 * steps)}


def test_the_batches_are_the_same_for_any_number_of_loader_processes(
    make_dataset: MakeDataset,
) -> None:
    mixture = mixed([make_dataset([13], name="one"), make_dataset([5], name="two")], [2, 1])
    here = samples(mixture, 6, start=12, micro_batch=6)
    assert samples(mixture, 6, start=12, micro_batch=6, loader_workers=2) == here


def test_the_sequence_of_a_mixture_is_a_format_that_does_not_drift(
    make_dataset: MakeDataset,
) -> None:
    """Golden values: a change would break the resumption of running trainings."""
    sets = [make_dataset([20]), make_dataset([20])]
    keys = [key for key, _ in samples(mixed(sets, [1, 2]), 2).values()]
    assert [int(key.split("/")[1]) for key in keys] == [
        *(2, 6, 18, 19, 12, 10, 14, 11, 1, 9, 15, 7),
        *(3, 11, 8, 6, 13, 13, 16, 0, 0, 5, 17, 4),
    ]


def test_one_set_opened_as_a_mixture_is_served_as_if_it_were_alone(
    make_dataset: MakeDataset,
) -> None:
    dataset = make_dataset([20])
    alone = opened(ComponentConfig(path=dataset.folder.path))
    assert alone.info == single(dataset).info == dataset.info
    assert samples(alone, 5) == samples(single(dataset), 5)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_block_is_read_once_an_epoch_by_all_workers_together(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Mixing leaves each worker the lanes that it would have in each set alone."""
    sets = [make_dataset([48], name="one"), make_dataset([96], name="two")]
    reads: Counter[tuple[str, int]] = Counter()
    read_blocks = ShardedDataset.read_blocks

    def counted(self: ShardedDataset, indices: list[int]) -> object:
        reads.update((self.folder.path, index) for index in indices)
        return read_blocks(self, indices)

    monkeypatch.setattr(ShardedDataset, "read_blocks", counted)
    for rank in range(workers):
        cut = {"rank": rank, "world_size": workers, "micro_batch": 12 // workers}
        samples(mixed(sets, [1, 2]), 12, shuffle_window=6, **cut)
    assert len(reads) == 12 + 24
    assert set(reads.values()) == {1}


def test_balanced_classes_come_equally_often_whatever_their_sizes(
    make_dataset: MakeDataset,
) -> None:
    """With 4 lanes and 3 classes, each batch of 12 is one window; each class's epochs are exact."""
    path = make_dataset([9, 51]).folder.path
    keep = SelectConfig(split=SplitConfig(part="train", fraction=0.4, seed=1))
    mixture = opened(ComponentConfig(path=path), select=keep, balance="classes")
    sizes = [part.dataset.info.samples for part in mixture.components]
    assert sum(sizes) == mixture.info.samples < 60
    assert len(set(sizes)) > 1
    served = samples(mixture, 20)
    for first in range(0, 240, 12):
        labels = Counter(served[index][1] for index in range(first, first + 12))
        assert labels == {0: 4, 1: 4, 2: 4}
    for label, size in enumerate(sizes):
        own = Counter(key for key, of in served.values() if of == label)
        assert len(own) == size
        assert max(own.values()) - min(own.values()) <= 1


def test_the_epoch_of_a_mixture_is_that_of_the_set_passed_least_often(
    make_dataset: MakeDataset,
) -> None:
    sets = [make_dataset([10], name="one"), make_dataset([30], name="two")]
    assert stream(mixed(sets, [1, 1])).epoch_at(80) == (1, 10, 30)


def test_the_digest_covers_sets_weights_and_choices_in_their_order(
    make_dataset: MakeDataset,
) -> None:
    """And no paths: sets may move."""
    one, two = (make_dataset([n], name=f"set{n}").folder.path for n in (8, 9))
    some = SelectConfig(labels=(1,))
    mixtures = [
        opened(ComponentConfig(path=one), ComponentConfig(path=two)),
        opened(ComponentConfig(path=two), ComponentConfig(path=one)),
        opened(ComponentConfig(path=one, weight=2), ComponentConfig(path=two)),
        opened(ComponentConfig(path=one, select=some), ComponentConfig(path=two)),
        opened(ComponentConfig(path=one, select=some)),
        opened(ComponentConfig(path=one)),
    ]
    assert len({mixture.info.manifest_sha256 for mixture in mixtures}) == len(mixtures)
    moved = Path(one).rename(Path(one).with_name("moved"))
    again = opened(ComponentConfig(path=str(moved)), ComponentConfig(path=two))
    assert again.info == mixtures[0].info
    assert again.info.samples == 17


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (DatasetInfo("train", (1, 4, 4), 4, tuple("abcd")), "classes is 3 in the first and 4 in"),
        (DatasetInfo("train", (1, 4, 4), 3, ("a", "b", "d")), "class_names is"),
        (DatasetInfo("train", (1, 4, 5), 3, ("a", "b", "c")), r"shape is \(1, 4, 4\) in"),
        (DatasetInfo("train", (1, 4, 4), 3, ("a", "b", "c"), levels=16), "levels is 256 in"),
    ],
)
def test_sets_that_differ_are_not_mixed(
    make_dataset: MakeDataset, other: DatasetInfo, difference: str
) -> None:
    first, second = make_dataset([4], name="first"), make_dataset([4], name="second")
    finish_dataset(second.folder, list(second.rows), other)
    parts = [ComponentConfig(path=dataset.folder.path) for dataset in (first, second)]
    with pytest.raises(InputError, match=rf"mix .*first and .*second: {difference}"):
        opened(*parts)


def test_impossible_balances_are_refused(
    make_dataset: MakeDataset, pack: Any, tmp_path: Path
) -> None:
    lacks_one = ComponentConfig(path=make_dataset([2]).folder.path)
    with pytest.raises(InputError, match=r"chosen for the labels \[2\]; leave them out"):
        opened(lacks_one, balance="classes")
    two = opened(lacks_one, select=SelectConfig(labels=(0, 1)), balance="classes")
    assert len(two.components) == 2
    with pytest.raises(InputError, match="is for one set"):
        opened(lacks_one, lacks_one, balance="classes")
    unlabelled = ComponentConfig(path=pack(tmp_path / "unlabelled", labelled=False))
    with pytest.raises(InputError, match=r"needs labels, and .*unlabelled has none"):
        opened(unlabelled, balance="classes")


def test_a_plan_counts_the_epochs_of_a_mixture(tiny: Any, pack: Any, tmp_path: Path) -> None:
    """6 steps of 8 images, 3 to 1: 36 of 24 and 12 of 12."""
    pack(tmp_path / "one", 24)
    pack(tmp_path / "two", 12)
    plan = plan_training(tiny("data.train=[{path: one, weight: 3}, {path: two}]"))
    assert plan.epochs == 1.0
    assert "36 images (1, 8, 8), 1.0 epochs" in plan.text()
    assert plan_training(tiny("data={train: one, balance: classes}")).data.samples == 24
