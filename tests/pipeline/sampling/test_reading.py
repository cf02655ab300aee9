"""Finished sets are read back by everyone: our reader, our stream, webdataset, and as Parquet."""

import gc
import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from pipeline.config.prepare import PrepareConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.decode import decode_image
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.prepare.splits import plan_prepare, prepare
from pipeline.sampling.pictures import draw_class_grids, draw_grid
from pipeline.sampling.sample_set import open_sample_set, rows_by_class

SHAPE = (1, 8, 8)
FORMS = [{}, {"format": "parquet"}]


@pytest.mark.parametrize("form", FORMS)
def test_every_row_of_the_manifest_leads_to_its_pixels(draw, form):
    """Id, class, seed, scale, shard, offset and digest of each sample; alone and in bulk."""
    samples = draw("s", seed=3, **form)
    table = samples.manifest().to_pylist()
    assert [row["id"] for row in table] == list(range(15))
    assert [row["class"] for row in table] == [0, 1, 2] * 5
    assert {(row["seed"], row["guidance_scale"]) for row in table} == {(3, 2.0)}
    together = samples.images(range(15))
    for number in (14, 0, 7):
        image = samples.images([number])[0]
        assert np.array_equal(image, together[number])
        assert hashlib.sha256(image.tobytes()).hexdigest() == table[number]["sha256"]
    batches = list(samples.batches(4))
    assert [len(batch.images) for batch in batches] == [4, 4, 4, 3]
    assert np.array_equal(np.concatenate([b.images.numpy() for b in batches]), together)
    assert [int(i) for batch in batches for i in batch.labels] == [0, 1, 2] * 5


def test_both_forms_hold_the_same_images(draw):
    tar, parquet = draw("s"), draw("t", format="parquet")
    assert np.array_equal(tar.images(range(15)), parquet.images(range(15)))
    assert tar.manifest(["sha256"]) == parquet.manifest(["sha256"])


def test_the_stream_reads_the_tars_as_any_dataset(draw):
    samples = draw("s")
    (batch,) = iterate_once(open_dataset(samples.folder.url), batch_size=15)
    assert np.array_equal(batch.images.numpy(), samples.images(range(15)))
    assert batch.labels.tolist() == [0, 1, 2] * 5


def test_parquet_is_refused_by_the_stream_and_taken_by_prepare(draw, tmp_path):
    """The refusal says how to make a stream of it, and that works."""
    samples = draw("s", format="parquet")
    with pytest.raises(InputError, match=r"jobs.prepare \(kind: parquet\)"):
        open_dataset(samples.folder.url)
    images = tmp_path / "images"
    images.mkdir()
    for row in samples.shards:
        (images / row.shard).write_bytes((samples.folder / row.shard).read_bytes())
    source = {"kind": "parquet", "path": str(images)}
    config = PrepareConfig.model_validate(
        {"output": str(tmp_path / "packed"), "splits": {"train": source}}
    )
    packed = prepare(plan_prepare(config))["train"]
    (batch,) = iterate_once(packed, batch_size=15)
    mine = {image.tobytes() for image in samples.images(range(15))}
    assert {image.numpy().tobytes() for image in batch.images} == mine


@pytest.mark.filterwarnings(
    # webdataset leaves its shards to the garbage collector
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)
@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_plain_webdataset_reads_the_shards(draw, tmp_path, export, encoding):
    """Any WebDataset reader finds key, image, class and provenance of each sample, lossless."""
    colour = export(tmp_path / "colour", channels=3)
    samples = draw("s", model=colour, encoding=encoding)
    shards = sorted(str(path) for path in (tmp_path / "s").glob("shard-*.tar"))
    seen = list(webdataset.WebDataset(shards, shardshuffle=False))
    gc.collect()
    assert [sample["__key__"] for sample in seen] == [f"{k:09d}" for k in range(15)]
    assert [int(sample["cls"]) for sample in seen] == [0, 1, 2] * 5
    pixels = np.stack([decode_image(sample[encoding], (3, 8, 8)) for sample in seen])
    assert np.array_equal(pixels, samples.images(range(15)))
    assert samples.manifest(["sha256"]) == draw("t", model=colour).manifest(["sha256"])
    assert json.loads(seen[4]["json"]) == {"guidance_scale": 2.0, "id": 4, "seed": 0}


def test_the_parquet_shards_are_tables_for_anyone(draw, tmp_path):
    samples = draw("s", format="parquet")
    table = pq.read_table(tmp_path / "s" / samples.shards[0].shard).to_pylist()
    assert [row["id"] for row in table] == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(decode_image(table[3]["image"], SHAPE), samples.images([3])[0])


def test_dataset_json_says_how_the_images_were_made(draw):
    made = draw("s", sampler="heun").info.provenance
    assert (made["sampler"], made["steps"], made["nfe"]) == ("heun", 3, 12)
    assert (made["guidance"], made["guidance_scale"]) == ("classifier_free", 2.0)
    assert len(made["model_sha256"]) == len(made["schedule_sha256"]) == 64
    assert "code" in made["made_by"]
    assert "torch" in made["made_by"]


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_found_by_size_or_by_digest(draw, form):
    samples = draw("s", **form)
    shard = samples.folder / samples.shards[1].shard
    data = bytearray(shard.read_bytes())
    start = data.index(b"IDAT") + 8
    shard.write_bytes(bytes(data[:start]) + bytes(8) + bytes(data[start + 8 :]))
    with pytest.raises(InputError, match=samples.shards[1].shard):
        open_sample_set(samples.folder.url).images(range(15))
    shard.write_bytes(bytes(data[:-100]))
    with pytest.raises(InputError, match="cut short"):
        open_sample_set(samples.folder.url)


def test_what_is_no_sample_set_is_refused(draw, tmp_path):
    samples = draw("s")
    with pytest.raises(InputError, match="does not exist"):
        open_sample_set(str(tmp_path / "nothing"))
    (samples.folder / "sample_manifest.parquet").delete()
    with pytest.raises(InputError, match=r"not made by jobs\.sample"):
        open_sample_set(samples.folder.url)


def test_pictures_show_the_first_images_of_each_class(draw, tmp_path):
    """grid.png has a row for each class, grids/ a picture for each; pixels are the samples' own."""
    samples = draw("s", counts={0: 5, 2: 3})
    assert rows_by_class(samples, 2) == {0: [0, 2], 2: [1, 3]}
    grid = draw_grid(samples, columns=4)
    room = grid.shape[1] - (4 * (8 + 2) * 8 + 16)  # the names' margin; images are enlarged 8 times
    for line, label in enumerate((0, 2)):
        for place, row in enumerate(rows_by_class(samples, 4)[label]):
            top, left = 16 + line * 80, room + 16 + place * 80
            shown = grid[top : top + 64 : 8, left : left + 64 : 8, 0]
            assert np.array_equal(shown, samples.images([row])[0, 0])
    draw_class_grids(samples, 4)
    files = sorted((tmp_path / "s" / "grids").iterdir())
    assert [file.name for file in files] == ["class-000.png", "class-002.png"]
    with Image.open(files[1]) as picture:
        assert picture.size == (2 * 80 + 16, 2 * 80 + 16)
