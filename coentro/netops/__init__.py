"""Network ops: one interface, a folder per platform."""
