"""What a person submits: `python -m jobs.<name> --config FILE key=value ...`."""
