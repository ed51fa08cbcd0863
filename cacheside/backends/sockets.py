"""Time-outs of plain sockets, kept by the kernel: Python's own cost one system call more for each that they bound."""

from __future__ import annotations

import os
import socket
import struct
import sys

_TIMEVAL = struct.Struct("ll") if os.name == "posix" and sys.maxsize > 2**32 else None


def bound(sock: socket.socket, seconds: float) -> bool:
    """Have sending and receiving on `sock` end after so many seconds.

    Returns:
        True: by the kernel, and they end with BlockingIOError; the socket blocks. False: as usual, with TimeoutError.
    """
    # Not of a TLS socket, nor of one that gevent or the like has put in the place of Python's: they wait by themselves.
    if _TIMEVAL is None or type(sock).__module__ != "socket":
        sock.settimeout(seconds)
        return False
    whole = max(1, round(seconds * 1e6))
    timeval = _TIMEVAL.pack(whole // 10**6, whole % 10**6)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
    sock.settimeout(None)
    return True
