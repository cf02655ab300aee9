"""Moves data and state between storage, the cluster and `vdm_core`; never imports `jobs`."""
