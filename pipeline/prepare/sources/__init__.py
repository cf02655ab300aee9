"""Where images come from before they are packed: folders, IDX arrays, Parquet."""

from collections.abc import Callable

from pipeline.config.prepare import FolderSource, IdxSource, ParquetSource
from pipeline.prepare.sources.base import Source, SourceSample
from pipeline.prepare.sources.folder import FolderImages
from pipeline.prepare.sources.idx import IdxImages
from pipeline.prepare.sources.parquet import ParquetImages

__all__ = ["Source", "SourceSample", "open_source"]


def open_source(
    config: FolderSource | IdxSource | ParquetSource, resolve: Callable[[str], str]
) -> Source:
    """Open the configured source; `resolve` makes its paths absolute.

    Raises InputError for missing, empty or malformed input.
    """
    match config:
        case FolderSource():
            return FolderImages(resolve(config.path), labelled=config.labelled)
        case IdxSource():
            labels = resolve(config.labels) if config.labels is not None else None
            return IdxImages(resolve(config.images), labels, config.limit)
        case ParquetSource():
            given = (config.path,) if isinstance(config.path, str) else config.path
            return ParquetImages([resolve(path) for path in given], config.image, config.label)
