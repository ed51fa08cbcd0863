"""A proxy on loopback that breaks what passes through it, as badly as a network can.

    with FaultProxy(server.port) as proxy:
        proxy.share = 0.02  # of the requests meet a fault
        client = connect(proxy.port)

The faults, which come in turn, and each at a random moment:

reset            the request is lost, and the client's connection is reset
half a request   the server gets the first half of it, then both connections are closed
no reply         the server carries the request out; the reply is lost, and the client's connection is reset
half a reply     the client gets the first half of the reply, then its connection is closed
late request     the server gets the request long after the client has given up: the late duplicate of every nightmare
late reply       the server carries the request out at once; the client waits in vain
crumbs           no fault, but a trial: the reply comes one byte at a time
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import threading
from collections import Counter

from servers import HOST

FAULTS = ("reset", "half a request", "no reply", "half a reply", "late request", "late reply", "crumbs")


class FaultProxy:
    """See the module. It runs in a thread of its own.

    Args:
        port: of the server, on loopback.
        late: seconds that late things take: longer than the clients' time-out.
        faults: those that come.
    """

    def __init__(self, port: int, late: float = 0.4, faults: tuple[str, ...] = FAULTS) -> None:
        self._target = port
        self._late = late
        self._faults = itertools.cycle(faults)
        self.share = 0.0
        """Of all requests so many meet a fault."""
        self.requests = 0
        """How many have arrived so far."""
        self.met: Counter[str] = Counter()
        """How often each fault has happened."""
        self.port = 0
        """Where clients find it."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, HOST, 0), self._loop)
        self._server = listening.result(20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(HOST, self._target)
            await _Passage((reader, writer), upstream, self._late).run(self)
        except OSError:
            writer.close()

    def draw(self) -> str:
        """What happens to the next request; "": nothing."""
        self.requests += 1
        if random.random() >= self.share:
            return ""
        fault = next(self._faults)
        self.met[fault] += 1
        return fault


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Passage:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: Stream, server: Stream, late: float) -> None:
        self._client = client
        self._server = server
        self._late = late
        self._fault = ""  # what is to happen to the next reply

    async def run(self, proxy: FaultProxy) -> None:
        """Until one side closes, or a fault ends it."""
        pumps = [asyncio.ensure_future(self._requests(proxy)), asyncio.ensure_future(self._replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for _, writer in (self._client, self._server):
                writer.close()

    async def _requests(self, proxy: FaultProxy) -> None:
        reader, (_, server) = self._client[0], self._server
        while request := await reader.read(65536):
            self._fault = fault = proxy.draw()
            if fault == "reset":
                self._reset()
                return
            if fault == "half a request":
                server.write(request[: len(request) // 2])
                await server.drain()
                return
            if fault == "late request":
                await asyncio.sleep(self._late)
            server.write(request)
            await server.drain()

    async def _replies(self) -> None:
        reader, (_, client) = self._server[0], self._client
        while reply := await reader.read(65536):
            fault, self._fault = self._fault, ""
            if fault == "no reply":
                self._reset()
                return
            if fault == "half a reply":
                client.write(reply[: len(reply) // 2])
                await client.drain()
                return
            if fault == "late reply":
                await asyncio.sleep(self._late)
            for part in [bytes([byte]) for byte in reply] if fault == "crumbs" else [reply]:
                client.write(part)
                await client.drain()
                await asyncio.sleep(0)

    def _reset(self) -> None:
        """Close the client's connection in the way that TCP calls a reset."""
        sock: socket.socket = self._client[1].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client[1].transport.abort()
