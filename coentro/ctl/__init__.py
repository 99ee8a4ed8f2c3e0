"""coentroctl: the helper from a terminal. Standard library and coentro.client.plain alone."""
