"""Configuration of `jobs.prepare`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import ConfigModel, JobConfig
from pipeline.config.sample import PoolConfig


class FolderSource(ConfigModel):
    """A tree of image files; the first folder level is the class."""

    kind: Literal["folder"]
    path: str = Field(description="Folder or URL that holds one folder per class.")
    labelled: bool = Field(True, description="False: every image below `path`, without labels.")


class IdxSource(ConfigModel):
    """Arrays in the IDX format of MNIST, plain or gzipped."""

    kind: Literal["idx"]
    images: str = Field(description="File or URL of the images, (N,H,W) unsigned bytes.")
    labels: str | None = Field(None, description="File or URL of the labels; null: unlabelled.")
    limit: int | None = Field(None, gt=0, description="Take the first so many images only.")


class ParquetSource(ConfigModel):
    """Parquet with one encoded image per row."""

    kind: Literal["parquet"]
    path: str | tuple[str, ...] = Field(
        description="File, folder or URL, or a list of files; the files of a folder in name order."
    )
    image: str = Field("image", description="Column of bytes, or of structs with field `bytes`.")
    label: str | None = Field("label", description="Column of integers; null: unlabelled.")


class WebDatasetSource(ConfigModel):
    """Existing tar shards: indexed where they are, never rewritten."""

    kind: Literal["webdataset"]
    path: str = Field(
        description="Folder or URL of the `.tar` files; they are taken in name order."
    )
    labelled: bool = Field(True, description="False: ignore `.cls` and `.json`.")


SourceConfig = Annotated[
    FolderSource | IdxSource | ParquetSource | WebDatasetSource, Field(discriminator="kind")
]
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class PrepareConfig(JobConfig):
    """Which images become which sharded sets."""

    output: str = Field(description="Folder or URL; split `train` is written to output/train.")
    splits: dict[SplitName, SourceConfig] = Field(min_length=1, description="Source of each split.")
    class_names: tuple[str, ...] | None = Field(
        None, description="Names in label order. Null: folder names, or else the numbers."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Shuffles the samples once, at packing.")
    shard_samples: int = Field(10_000, gt=0, description="Most samples in a shard.")
    shard_bytes: int = Field(
        256 * 2**20, gt=0, description="Most encoded image bytes in a shard; it is built in memory."
    )
    block_samples: int = Field(
        128, gt=0, description="Samples that are read together; they stay neighbours in a lane."
    )
    shuffle_bytes: int = Field(
        512 * 2**20,
        gt=0,
        description="Encoded images that are shuffled together; an actor holds them in memory.",
    )
    on_bad_image: Literal["raise", "skip"] = Field(
        "raise", description="skip leaves unusable samples out; bad_images.jsonl names them."
    )
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="With skip: more unusable images than this are refused."
    )
    convert: Literal["L", "RGB"] | None = Field(
        None, description="Convert other images to this mode and keep them as PNG. Null: refuse."
    )
    max_pixels: int = Field(2**24, gt=0, description="Most pixels of an image: refuses bombs.")
    pool: PoolConfig = Field(
        PoolConfig(), description="One actor works in this process, several through Ray."
    )
    source: str = Field("", description="Where the images come from, for the record.")
    licence: str = Field("", description="Their licence, for the record.")
    overwrite: bool = Field(False, description="Replace sets that exist in `output`.")

    @model_validator(mode="after")
    def _names_differ(self) -> "PrepareConfig":
        names = self.class_names
        if names is not None and (not names or len(set(names)) != len(names)):
            raise ValueError("class_names must be one or more different names")
        return self
