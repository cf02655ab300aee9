"""Know before you pay: what a run needs, takes and costs on a cluster that is described."""
