"""The protocol between systemd and a service: sd_notify(3), the watchdog, and sockets that systemd opened.

Nothing is done without systemd's environment variables. One datagram and three variables need no library.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

__all__ = ["feed", "passed_sockets", "tell"]

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_STATUS_S = 5.0  # How often the status is looked at where the watchdog does not ask for more.
_SEND_S = 1.0  # How long a service manager that reads nothing may hold up speech.


def tell(**fields: object) -> None:
    """Send fields of sd_notify(3), such as READY=1 or STATUS="...", to the service manager, once."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    message = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in fields.items())
    # A service manager that has gone, or is stuck, is no reason to stop speaking.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_SEND_S)
        sender.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)


async def feed(status: Callable[[], str]) -> None:
    """Feed the watchdog while the event loop runs, and send the status when it has changed. Never ends by itself.

    Only the event loop feeds it: when the loop is blocked the watchdog starves, and systemd restarts the service.
    """
    watchdog_s = _watchdog_s()
    sent = ""
    while True:
        fields = {"WATCHDOG": "1"} if watchdog_s else {}
        if (text := status()) != sent:
            fields["STATUS"] = sent = text
        if fields:
            tell(**fields)
        await asyncio.sleep(min(_STATUS_S, watchdog_s / 3 if watchdog_s else _STATUS_S))


def _watchdog_s() -> float:
    """Return the seconds after which systemd ends a service that does not feed the watchdog; 0 without a watchdog."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0  # The watchdog is a parent process's.
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0


def passed_sockets() -> list[socket.socket]:
    """Return the listening sockets that systemd opened for this process; [] where it opened none. The caller closes them.

    A second call returns []: the variables are removed, so that no child process takes the sockets for its own.
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
