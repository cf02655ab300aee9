"""Ray: connecting, a local head, and pools of actors."""
