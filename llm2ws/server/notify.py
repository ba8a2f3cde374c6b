"""What systemd passes to a service, and what it is told: sd_notify(3), its watchdog, and sockets that it opened.

Without its variables in the environment nothing is done. All of it is a datagram and three variables, so no library is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

__all__ = ["feed", "passed_sockets", "tell"]

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_STATUS_S = 5.0  # how often the state is looked at where no watchdog asks for more
_SEND_S = 1.0  # a service manager that takes nothing for so long must not hold up speech


def tell(**fields: object) -> None:
    """Tell the service manager: READY=1, STOPPING=1, STATUS="..." and others of sd_notify(3). It is not told twice."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    message = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in fields.items())
    # One that has gone, or is stuck, is no reason to stop speaking.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_SEND_S)
        sender.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)


async def feed(status: Callable[[], str]) -> None:
    """Feed the watchdog for as long as the event loop runs, and tell `status` when it has changed. Never ends by itself.

    It is fed from the loop, and by nothing else: a loop that is blocked starves it, and systemd starts the service again.
    """
    watchdog_s = _watchdog_s()
    told = ""
    while True:
        fields = {"WATCHDOG": "1"} if watchdog_s else {}
        if (now := status()) != told:
            fields["STATUS"] = told = now
        if fields:
            tell(**fields)
        await asyncio.sleep(min(_STATUS_S, watchdog_s / 3 if watchdog_s else _STATUS_S))


def _watchdog_s() -> float:
    """The time after which systemd ends a service that it has not heard of; 0 where it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0  # it is a parent's
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0


def passed_sockets() -> list[socket.socket]:
    """The listening sockets that systemd opened for this process; [] where it opened none. The caller closes them.

    They are given once: the variables are taken away, so that no child process takes them for its own.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = [socket.socket(fileno=fd) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]
    for each in sockets:
        each.set_inheritable(False)
        each.settimeout(0)
    return sockets
