"""coentro: the privileged half of a VPN, done once and right.

An unprivileged program asks the helper over a Unix socket for a tunnel device, addresses,
routes; it moves the packets itself. See docs/architecture.md.
"""

__version__ = "0.1.0"
