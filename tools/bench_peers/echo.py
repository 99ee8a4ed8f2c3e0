"""A raw trio echo over a Unix socket: the floor for whatever is served with trio.

python echo.py SOCKET
"""

from __future__ import annotations

import sys

import trio


async def answer(peer: trio.socket.SocketType) -> None:
    with peer:
        while data := await peer.recv(65536):
            await peer.send(data)


async def main(path: str) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen()
    async with trio.open_nursery() as nursery:
        while True:
            peer, _ = await listener.accept()
            nursery.start_soon(answer, peer)


trio.run(main, sys.argv[1])
