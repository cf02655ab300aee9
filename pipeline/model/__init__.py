"""From a configuration to a VDM, and from a trained one to files."""
