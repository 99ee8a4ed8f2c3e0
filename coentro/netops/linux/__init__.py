"""Network ops of Linux: netlink, TUN, and what a host shall have. Imported on Linux only."""
