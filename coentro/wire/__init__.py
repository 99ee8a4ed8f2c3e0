"""Bytes to calls and back: lines with descriptors, JSON-RPC 2.0, typed parameters, dispatch.

Nothing here does I/O of its own or knows trio; docs/protocol.md, "Transport", is its contract.
"""
