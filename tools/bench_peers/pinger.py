"""Another client: pings again and again and tells how long the worst took, in seconds.

python pinger.py SOCKET     prints "ready" after the first answer, the worst once stdin ends
"""

from __future__ import annotations

import select
import socket
import sys
import time

PAUSE_S = 0.002
PING = b'{"jsonrpc":"2.0","id":1,"method":"session.ping"}\n'


def main(path: str) -> None:
    worst = 0.0
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(path)
        wire.sendall(PING)
        wire.recv(4096)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            began = time.perf_counter()
            wire.sendall(PING)
            wire.recv(4096)
            worst = max(worst, time.perf_counter() - began)
    print(worst)


main(sys.argv[1])
