"""The daemon: start-up, who may call, what they may call, and one task per peer."""
