"""A TCP forwarder on a loopback port that can be unplugged.

Owns sockets and bytes, and knows no protocol. The embedded broker stands behind it:
librdkafka lets the kernel choose the mock cluster's port, and a restart of the whole
system must find the broker where it was; and an outage is made here, by cutting
connections, so that the broker behind keeps its records.
"""

import contextlib
import selectors
import socket
import threading
import time
from typing import Final

LOOPBACK: Final = "127.0.0.1"

_CHUNK_BYTES: Final = 65_536
_CONNECT_TIMEOUT_SECONDS: Final = 5.0
# How long the accept loop rests when it can't accept though the port is up (out of
# file descriptors): without a rest it would spin until one is free.
_ACCEPT_PAUSE_SECONDS: Final = 0.05


class TcpForwarder:
    """Forwards each connection to `target_port` until it is unplugged or closed.

    The port stays bound while the forwarder is down, so that a client sees its
    connections refused and no other process can take the port meanwhile.
    """

    def __init__(self, *, port: int, target_port: int) -> None:
        """Bind the port and start forwarding.

        Args:
            port: 0 lets the kernel choose; `self.port` tells which one it was.

        Raises:
            OSError: The port is taken or may not be bound.
        """
        self._target_port = target_port
        self._lock = threading.Lock()
        self._links: set[tuple[socket.socket, socket.socket]] = set()
        self._plugged = threading.Event()
        self._is_losing_replies = False
        self._acceptor: threading.Thread | None = None
        self._door = _bind(port)
        self.port: int = self._door.getsockname()[1]
        try:
            self.up()
        except OSError:
            # Two sockets may be bound to one port as long as neither listens.
            self._door.close()
            raise

    def up(self) -> None:
        """Accept connections again; does nothing while it is up."""
        if self._plugged.is_set():
            return
        self._door.listen(128)
        self._plugged.set()
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._door,), daemon=True, name="forwarder"
        )
        self._acceptor.start()

    def down(self) -> None:
        """Refuse new connections and cut the open ones; does nothing while down."""
        if not self._plugged.is_set():
            return
        self._close_door()
        self._door = _bind(self.port)
        self.cut()

    def cut(self) -> None:
        """End every open connection; bytes under way in either direction are lost."""
        with self._lock:
            for link in self._links:
                for end in link:
                    _shut_down(end)

    def lose_replies(self) -> None:
        """Pass requests on, but swallow what comes back."""
        self._is_losing_replies = True

    def return_replies(self) -> None:
        """Pass replies on again, over new connections.

        The open ones are cut: a reply swallowed in part would leave their stream out
        of step.
        """
        self._is_losing_replies = False
        self.cut()

    def close(self) -> None:
        """Free the port and cut everything. The forwarder is not usable afterwards."""
        if self._plugged.is_set():
            self._close_door()
        self._door.close()
        self.cut()

    def _close_door(self) -> None:
        self._plugged.clear()
        # Either wakes the acceptor: the first on Linux, the second elsewhere.
        _shut_down(self._door)
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        # Once the acceptor has ended no link can be added: whoever cuts cuts them all.
        if self._acceptor is not None:
            self._acceptor.join()
        self._door.close()

    def _accept(self, door: socket.socket) -> None:
        while self._plugged.is_set():
            try:
                client, _ = door.accept()
            except OSError:
                time.sleep(_ACCEPT_PAUSE_SECONDS if self._plugged.is_set() else 0)
                continue
            self._link(client)

    def _link(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(
                (LOOPBACK, self._target_port), _CONNECT_TIMEOUT_SECONDS
            )
        except OSError:
            client.close()
            return
        with self._lock:
            self._links.add((client, server))
        threading.Thread(
            target=self._relay,
            args=(client, server),
            daemon=True,
            name="forwarder-link",
        ).start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        # One thread owns both ends and is the only one that closes them; others only
        # shut them down, which wakes it. So no descriptor is used after its number
        # was given to another socket.
        with client, server, selectors.DefaultSelector() as selector:
            # A connection that is reset has ended, and nothing more is to be said.
            with contextlib.suppress(OSError):
                for source, sink in ((client, server), (server, client)):
                    source.settimeout(None)
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(source, selectors.EVENT_READ, (source, sink))
                while self._pass_on(selector, server):
                    pass
            with self._lock:
                self._links.discard((client, server))

    def _pass_on(self, selector: selectors.BaseSelector, server: socket.socket) -> bool:
        """Move what has arrived; False when one side has ended."""
        for key, _ in selector.select():
            source, sink = key.data
            received = source.recv(_CHUNK_BYTES)
            if not received:
                return False
            if not (source is server and self._is_losing_replies):
                sink.sendall(received)
        return True


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        raise
    return bound


def _shut_down(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side may have ended it already
        end.shutdown(socket.SHUT_RDWR)
