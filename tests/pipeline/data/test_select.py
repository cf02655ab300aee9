"""Parts of a set: disjoint, exhaustive, by key alone, and streamed like a whole one."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.data import SelectConfig, SplitConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.sample_index import SAMPLES, sample_index
from pipeline.data.select import in_part, selected, thinned
from pipeline.data.stream import TrainingStream, iterate_once
from pipeline.errors import InputError

MakeDataset = Callable[..., ShardedDataset]


def keys(dataset: ShardedDataset) -> set[str]:
    """Keys of a set's samples, each of which must come once, without their shards."""
    found = [key.split("/")[1] for b in iterate_once(dataset, batch_size=7) for key in b.keys]
    assert len(found) == len(set(found)) == dataset.info.samples
    return set(found)


def split(part: str, fraction: float = 0.3, seed: int = 0) -> SelectConfig:
    return SelectConfig(split=SplitConfig(part=part, fraction=fraction, seed=seed))  # type: ignore[arg-type]


def test_the_parts_are_disjoint_exhaustive_and_stay_when_the_set_is_packed_anew(
    make_dataset: MakeDataset,
) -> None:
    one = make_dataset([40, 33], name="one")
    train, validation = (keys(selected(one, split(part))) for part in ("train", "validation"))
    assert not train & validation
    assert train | validation == keys(one)
    other = make_dataset([20, 50, 30], block_samples=9, name="other")  # and 27 samples more
    assert keys(selected(other, split("validation"))) & keys(one) == validation


def test_the_fraction_is_met_and_seeds_give_independent_parts() -> None:
    hashes = np.random.Generator(np.random.Philox(0)).integers(0, 2**64, 100_000, np.uint64)
    parts = [
        in_part(hashes, SplitConfig(part="validation", fraction=0.2, seed=seed)) for seed in (0, 1)
    ]
    for part in parts:
        assert abs(part.mean() - 0.2) < 4 * (0.16 / 1e5) ** 0.5
    assert abs((parts[0] & parts[1]).mean() - 0.04) < 4 * (0.04 / 1e5) ** 0.5


def test_the_split_is_a_format_that_does_not_drift() -> None:
    """Golden values: a change would leak validation samples into running trainings."""
    hashes = np.arange(40, dtype=np.uint64) * np.uint64(2**58 + 12345)
    part = in_part(hashes, SplitConfig(part="validation", fraction=0.25, seed=3))
    assert np.flatnonzero(part).tolist() == [4, 5, 7, 11, 31, 33, 37]


def test_labels_choose_and_are_counted(make_dataset: MakeDataset) -> None:
    some = selected(make_dataset([20, 10]), SelectConfig(labels=(0, 2)))
    assert {int(key) % 3 for key in keys(some)} == {0, 2}
    assert some.info.samples == 20
    assert some.label_counts == (10, 0, 10)


def test_a_part_streams_exactly_once_an_epoch_for_any_workers(make_dataset: MakeDataset) -> None:
    part = selected(make_dataset([31, 9, 24]), split("train"))
    n = part.info.samples
    seen: dict[int, str] = {}
    for world_size in (1, 2, 4):
        for rank in range(world_size):
            stream = TrainingStream(
                part, seed=1, global_batch=8, rank=rank, world_size=world_size,
                micro_batch=8 // world_size, lanes=3, shuffle_window=6, prefetch=0,
            )  # fmt: skip
            for batch in itertools.islice(iter(stream), 2 * n // 8 + 1):
                for index, key in zip(batch.indices.tolist(), batch.keys, strict=True):
                    assert seen.setdefault(index, key) == key
    whole = keys(part)
    for epoch in range(2):
        assert {seen[epoch * n + i].split("/")[1] for i in range(n)} == whole


def test_the_index_is_kept_and_made_anew_for_another_manifest(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([9])
    first = sample_index(dataset)
    file = Path(dataset.folder.path) / SAMPLES
    before = file.stat().st_mtime_ns
    assert np.array_equal(sample_index(dataset).key_hashes, first.key_hashes)
    assert file.stat().st_mtime_ns == before
    again = make_dataset([12])
    assert len(sample_index(again).labels) == 12


def test_a_damaged_shard_is_not_split(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([16])
    (Path(dataset.shards_at.path) / dataset.rows[0].shard).write_bytes(b"")
    with pytest.raises(InputError, match="repair the shard before choosing"):
        selected(dataset, split("train"))


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (SelectConfig(labels=(3,)), r"\[3\] are outside 0\.\.2"),
        (split("validation", 1e-9), "no sample of .* is chosen"),
    ],
)
def test_impossible_choices_are_refused(
    make_dataset: MakeDataset, select: SelectConfig, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        selected(make_dataset([16]), select)


def test_a_thinned_set_is_spread_evenly_over_the_whole_one(make_dataset: MakeDataset) -> None:
    """Its samples are those at the places it names; of a part, too."""
    whole = make_dataset([20, 17], block_samples=6)
    for dataset in (whole, selected(whole, SelectConfig(labels=(0, 2)))):
        all_keys = [key for batch in iterate_once(dataset, batch_size=5) for key in batch.keys]
        thin, places = thinned(dataset, 7)
        assert places.tolist() == [k * len(all_keys) // 7 for k in range(7)]
        found = [key for batch in iterate_once(thin, batch_size=3) for key in batch.keys]
        assert found == [all_keys[place] for place in places]
    assert thinned(whole, 99)[0].info.samples == 37
