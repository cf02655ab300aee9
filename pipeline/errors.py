"""The errors that jobs print as one message: what a person can mend, and what failed for good."""


class InputError(ValueError):
    """Something the user gave is wrong (config, path, data, checkpoint).

    The message names the thing, the place and the remedy. Raised before work starts wherever
    that is possible; `jobs.cli` turns it into one line on stderr and exit code 2.
    """


class RunFailedError(RuntimeError):
    """The work failed and was given up; the message has all there is to know. Exit code 1."""
