"""The command line that every job shares.

    python -m jobs.<name> --config FILE [--config FILE ...] [--dry-run] key=value ...

Later files and then overrides win. `InputError` becomes one message on stderr and exit code 2.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.config.base import JobConfig
from pipeline.config.load import load_config
from pipeline.errors import InputError, RunFailedError
from pipeline.logs import set_up_logging
from pipeline.redact import redact, redact_text

C = TypeVar("C", bound=JobConfig)


def run(
    schema: type[C],
    main: Callable[[C], None],
    *,
    plan: Callable[[C], str] | None = None,
    description: str | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Load a `schema`, then call `main`; with `--dry-run` check everything and print instead.

    `plan` does the checks that `main` does before it takes resources, and says in words what
    would happen. Returns the exit code: 0 done, 1 the work failed, 2 the input was refused.
    """
    arguments = _parser(description).parse_intermixed_args(argv)
    set_up_logging()
    try:
        config = load_config(schema, arguments.config, arguments.overrides)
        if arguments.dry_run:
            resolved = redact(config.model_dump(mode="json"))
            print(json.dumps(resolved, indent=2, ensure_ascii=False))
            if plan is not None:
                print(plan(config))
        else:
            main(config)
    except InputError as error:
        print(f"error: {redact_text(str(error))}", file=sys.stderr)
        return 2
    except (RunFailedError, FloatingPointError) as error:
        print(f"error: {redact_text(str(error))}", file=sys.stderr)
        return 1
    return 0


def exit_on_sigterm() -> None:
    """Make SIGTERM leave through `finally` blocks, with exit code 128 + 15."""
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))


class StopSignals:
    """SIGTERM and SIGINT: the first asks to stop (`requested`), a second one leaves at once."""

    def __init__(self) -> None:
        """Take the signals over."""
        self.requested = threading.Event()
        self.exit_code = 128 + signal.SIGTERM
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        self.exit_code = 128 + number
        if self.requested.is_set():
            sys.exit(self.exit_code)
        self.requested.set()


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML; may be repeated"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check, print the resolved config and the plan"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dots for nested keys")
    return parser
