"""Real servers for tests of tracking: MLflow's, and PostgreSQL behind it, both on the loopback."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A loaded machine takes a minute for what an idle one does in five seconds.
_PATIENCE_S = 300


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def postgres_programs() -> Path | None:
    """Return the folder of Debian's newest PostgreSQL server, if there is one."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


def no_postgres() -> str:
    """Say why no PostgreSQL can be started here; empty where one can."""
    if postgres_programs() is None:
        return "no PostgreSQL server below /usr/lib/postgresql (apt-get install postgresql)"
    if importlib.util.find_spec("psycopg2") is None:
        return "MLflow needs psycopg2 to speak to PostgreSQL (pip install psycopg2-binary)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses root, and there is no setpriv to become somebody else"
    return ""


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL of its own and yield its URI."""
    programs, port = postgres_programs(), free_port()
    # Not pytest's folder: it is closed to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="unmask-postgres-"))
    become: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")
        become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    data = folder / "data"
    create = [f"{programs}/initdb", "-D", str(data), "-U", "mlflow", "--auth=trust", "--locale=C"]
    create += ["--encoding=UTF8", "--no-sync"]
    try:
        subprocess.run([*become, *create], cwd=folder, check=True, capture_output=True)
        serve = [f"{programs}/postgres", "-D", str(data), "-p", str(port)]
        serve += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        with _running([*become, *serve], folder / "log", signal.SIGINT) as process:
            ready = [f"{programs}/pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
            _wait(lambda: subprocess.run(ready).returncode == 0, process, folder / "log")
            yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


class Server:
    """An MLflow server that can be stopped, and started again with what it had."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def up(self, backend: str | None = None) -> Iterator[str]:
        """Run it and yield its URI; the backend is an SQLite database by default."""
        # One worker: on a busy machine, those of several that start slowly are killed repeatedly.
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", backend or f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with _running(command, self.folder / "log", signal.SIGTERM) as process:
            _wait(self._is_healthy, process, self.folder / "log")
            yield self.uri

    def _is_healthy(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200)
        except OSError:
            return False


@contextmanager
def _running(
    command: list[str], log: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, and stop it and the processes that it started."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
    # Its runners of jobs, which tracking does not need, take seven processes.
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not ready():
        told = log.read_text(errors="replace")[-3000:]
        assert process.poll() is None, told
        assert time.monotonic() < end, told
        time.sleep(0.2)
