"""The one error a person can mend: jobs print it as a single message and exit with code 2."""


class InputError(ValueError):
    """Something the user gave is wrong (config, path, data, checkpoint).

    The message names the thing, the place and the remedy. Raised before work starts wherever
    that is possible; `jobs.cli` turns it into one line on stderr and exit code 2.
    """
