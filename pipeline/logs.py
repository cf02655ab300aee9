"""Logging of every process of ours: our own lines from INFO up, everyone else's from WARNING up."""

import logging

OURS = ("pipeline", "jobs", "__main__")


def set_up_logging() -> None:
    """Configure the root logger of this process; calling it again changes nothing."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
