"""A tunnel's life: who owns it, what it may not touch, when it ends."""
