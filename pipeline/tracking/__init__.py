"""Tracking of runs: what is measured goes to a journal at once and from there to MLflow.

The driver calls `store_uri`, `prepare_store`, `open_run` and `close_run`; one process of the run
holds a `Tracker`. Neither a slow nor a dead MLflow server delays or ends training.
"""

from pipeline.tracking.about import DatasetUse, origin
from pipeline.tracking.address import store_uri, ui_command
from pipeline.tracking.journal import read_records
from pipeline.tracking.store import Status, close_run, open_run, prepare_store
from pipeline.tracking.tracker import Tracker

__all__ = [
    "DatasetUse",
    "Status",
    "Tracker",
    "close_run",
    "open_run",
    "origin",
    "prepare_store",
    "read_records",
    "store_uri",
    "ui_command",
]
