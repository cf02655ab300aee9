"""The store that the tests of this room share: making one takes seconds."""

import pytest

from pipeline.tracking import prepare_store, store_uri


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite store, its path with a space in it."""
    uri = store_uri(f"sqlite:///{tmp_path_factory.mktemp('a store')}/mlflow.db", ".")
    prepare_store(uri)
    return uri
