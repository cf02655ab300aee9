"""What tests kill: one preparation in a process of its own. Arguments: configuration as JSON."""

import sys

from jobs.prepare import main
from pipeline.config.prepare import PrepareConfig

if __name__ == "__main__":
    main(PrepareConfig.model_validate_json(sys.argv[1]))
