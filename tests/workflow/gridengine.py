"""A real Grid Engine with one node on this host: a master and a daemon with their own files.

It needs root, and Debian's `gridengine-master`, `gridengine-exec` and `gridengine-client`. It does
not touch a Grid Engine that this host may belong to: configuration, spool and ports are its own,
and it stops only what it started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from daemons import free_ports, search_path, wait

NEEDED = ("sge_qmaster", "sge_execd", "qconf", "qsub", "qstat", "qacct", "qdel")
PACKAGES = "gridengine-master gridengine-exec gridengine-client"
_SHARE = Path("/usr/share/gridengine")
_PROGRAMS = Path("/usr/lib/gridengine")

_BOOTSTRAP = """admin_user none
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params {folder}/spool/database
binary_path /usr/sbin
qmaster_spool_dir {folder}/spool/master
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""

_SLOTS = """pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""


class GridEngine:
    """A master and one node with as many slots as the host has cores, two at least."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        master, node = free_ports(2)
        self.environment = os.environ | {
            "PATH": search_path(),
            "SGE_ROOT": str(self.folder),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(master),
            "SGE_EXECD_PORT": str(node),
        }
        self._pids: list[int] = []

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs.

        Raises:
            RuntimeError: it does not within two minutes.
        """
        host = socket.gethostname()
        common = self.folder / "default/common"
        for name in ("spool/database", "spool/node", "spool/master/job_scripts"):
            (self.folder / name).mkdir(parents=True)
        common.mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.folder / name).symlink_to(Path("/var/lib/gridengine") / name)
        (common / "act_qmaster").write_text(f"{host}\n")
        (common / "host_aliases").write_text(f"{host} localhost\n")
        (common / "bootstrap").write_text(_BOOTSTRAP.format(folder=self.folder))
        self._spool()
        self.run("sge_qmaster")
        wait(lambda: host in self.run("qconf", "-sh"), _late)
        self._pids.append(int((self.folder / "spool/master/qmaster.pid").read_text()))
        self.run("qconf", "-as", host)
        self._add("-Ap", _SLOTS)
        self._add("-Ahgrp", f"group_name @allhosts\nhostlist {host}\n")
        queue = {
            "qname": "all.q",
            "hostlist": "@allhosts",
            "pe_list": "smp",
            "slots": str(max(2, os.cpu_count() or 1)),
            "load_thresholds": "NONE",
            "shell": "/bin/sh",
        }
        self._add("-Aq", _changed(self.run("qconf", "-sq"), queue))
        self.run("sge_execd")
        wait(lambda: "lx-" in self.run("qstat", "-f"), _late)
        self._pids.append(int(next(self.folder.glob("spool/node/*/execd.pid")).read_text()))

    def stop(self) -> None:
        """End all jobs and stop the daemons."""
        self.run("qdel", "-f", "-u", "*")
        for pid in reversed(self._pids):
            os.kill(pid, signal.SIGTERM)
            wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), _late)

    def run(self, *command: str, directory: Path | None = None, stdin: str | None = None) -> str:
        """Run a command and return what it printed."""
        return subprocess.run(
            command,
            env=self.environment,
            cwd=directory,
            input=stdin,
            capture_output=True,
            text=True,
        ).stdout

    def _spool(self) -> None:
        """Write the database that the master starts from; root may run jobs."""
        defaults = (_SHARE / "default-configuration").read_text()
        changes = {"execd_spool_dir": f"{self.folder}/spool/node", "min_uid": "0", "min_gid": "0"}
        configuration = self.folder / "configuration"
        configuration.write_text(_changed(defaults, changes))
        database = str(self.folder / "spool/database")
        self.run(str(_PROGRAMS / "spoolinit"), "berkeleydb", "libspoolb", database, "init")
        for name, value in (
            ("configuration", configuration),
            ("complexes", _SHARE / "util/resources/centry"),
            ("usersets", _SHARE / "util/resources/usersets"),
            ("managers", "root"),
        ):
            self.run(str(_PROGRAMS / "spooldefaults"), name, str(value))

    def _add(self, option: str, text: str) -> None:
        path = self.folder / "added"
        path.write_text(text)
        self.run("qconf", option, str(path))


def _changed(configuration: str, changes: dict[str, str]) -> str:
    """Return lines of a key and a value each, with other values for some keys."""
    kept = [line for line in configuration.splitlines() if line.split(" ")[0] not in changes]
    return "\n".join([*kept, *(f"{key} {value}" for key, value in changes.items()), ""])


def _late() -> str:
    return "Grid Engine does not start, or does not stop"
