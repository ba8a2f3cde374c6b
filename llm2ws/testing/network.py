"""A network that misbehaves on command."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

__all__ = ["FaultyNetwork", "reset"]


class FaultyNetwork:
    """A TCP proxy at `port` in front of a port of this machine, until the `async with` block is left.

    `delay_s`: how late all bytes arrive, both ways. `rate`: bytes a second to each client, None for no bound. `cut_after`:
    after how many more bytes to clients every connection ends, None for never. All may be changed at any time and hold for
    all connections.
    """

    def __init__(self, port: int, *, delay_s: float = 0.0, rate: float | None = None) -> None:
        self.delay_s = delay_s
        self.rate = rate
        self.cut_after: int | None = None
        self.connections = 0  # accepted since the start
        self.port = 0  # until it listens
        self._target_port = port
        self._stack = contextlib.AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallowed: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._group)
        self._stack.callback(self._end_connections)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._stack.callback(server.close)
        self.port = int(server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def swallow(self) -> None:
        """Keep all connections open, but carry nothing on them any more. Later connections are not affected."""
        self._swallowed |= self._writers

    def reset(self) -> None:
        """Break all connections with a TCP reset."""
        for writer in self._writers:
            reset(writer.transport)

    def _end_connections(self) -> None:
        self.reset()
        for task in self._tasks:
            task.cancel()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._group.create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ends = [writer]
        self._writers.add(writer)
        try:
            reader_there, writer_there = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(writer_there)
            self._writers.add(writer_there)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, writer_there, down=False))
                pumps.create_task(self._pump(reader_there, writer, down=True))
        except OSError:
            pass  # nobody listens there
        finally:
            for end in ends:
                end.transport.abort()
                self._writers.discard(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        """Carry bytes one way until their sender is gone, then end the other way too."""
        now = asyncio.get_running_loop().time
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry(queue, writer, down=down))
            try:
                while data := await reader.read(65_536):
                    await queue.put((now() + self.delay_s, data))
            except OSError:
                pass  # reset
            await queue.put((0.0, b""))
        writer.close()

    async def _carry(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, down: bool) -> None:
        now = asyncio.get_running_loop().time
        broken = False
        while (item := await queue.get())[1]:
            due, data = item
            await asyncio.sleep(max(0.0, due - now()))
            if broken or writer in self._swallowed:
                continue
            if down and self.cut_after is not None:
                data = data[: self.cut_after]
                self.cut_after -= len(data)
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                broken = True  # the other way fails as well, and ends both
            if down and self.cut_after == 0:
                self.cut_after = None
                for each in self._writers:
                    each.close()
            if down and self.rate is not None:
                await asyncio.sleep(len(data) / self.rate)


def reset(transport: asyncio.BaseTransport) -> None:
    """End a TCP connection with RST, so that what is under way is lost."""
    assert isinstance(transport, asyncio.WriteTransport)
    if (sock := transport.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
