"""A real Grid Engine of one node on this host: a master and a daemon, with files of their own.

It needs root, and Debian's `gridengine-master`, `gridengine-exec` and `gridengine-client`. Nothing
of a Grid Engine that this host may belong to is read or touched: configuration, spool and ports are
those of a folder, and only what was started is stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from daemons import free_ports, search_path, wait

NEEDED = ("sge_qmaster", "sge_execd", "qconf", "qsub", "qstat", "qacct", "qdel")
_SHARE = Path("/usr/share/gridengine")
_PROGRAMS = Path("/usr/lib/gridengine")

_BOOTSTRAP = """
admin_user none
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

_SLOTS = """
pe_name smp
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
    """A master and one node, which has as many slots as the host has cores, two at least."""

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
            RuntimeError: it does not within a minute.
        """
        host = socket.gethostname()
        common = self.folder / "default/common"
        for path in (common, *(self.folder / "spool" / name for name in ("database", "node"))):
            path.mkdir(parents=True)
        (self.folder / "spool/master/job_scripts").mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.folder / name).symlink_to(Path("/var/lib/gridengine") / name)
        (common / "act_qmaster").write_text(f"{host}\n")
        (common / "host_aliases").write_text(f"{host} localhost\n")
        (common / "bootstrap").write_text(_BOOTSTRAP.lstrip().format(folder=self.folder))
        self._spool()
        self.run("sge_qmaster")
        wait(lambda: host in self.run("qconf", "-sh"), _late)
        self._pids.append(int((self.folder / "spool/master/qmaster.pid").read_text()))
        self.run("qconf", "-as", host)
        self._add("-Ap", _SLOTS)
        self._add("-Ahgrp", f"group_name @allhosts\nhostlist {host}\n")
        queue = self.run("qconf", "-sq")
        for key, value in {
            "qname": "all.q",
            "hostlist": "@allhosts",
            "pe_list": "smp",
            "slots": str(max(2, os.cpu_count() or 1)),
            "load_thresholds": "NONE",
            "shell": "/bin/sh",
        }.items():
            lines = (line for line in queue.splitlines() if line.split()[0] != key)
            queue = "\n".join([*lines, f"{key} {value}", ""])
        self._add("-Aq", queue)
        self.run("sge_execd")
        wait(lambda: "lx-" in self.run("qstat", "-f"), _late)
        self._pids.append(int(next(self.folder.glob("spool/node/*/execd.pid")).read_text()))

    def stop(self) -> None:
        """End all jobs and stop what was started."""
        self.run("qdel", "-f", "-u", "*")
        for pid in reversed(self._pids):
            os.kill(pid, signal.SIGTERM)
            wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), _late)

    def run(self, *command: str, directory: Path | None = None, told: str | None = None) -> str:
        """Run a command and return what it printed; `told` is its standard input."""
        return subprocess.run(
            command, env=self.environment, cwd=directory, input=told, capture_output=True, text=True
        ).stdout

    def _spool(self) -> None:
        """Write the database that the master starts from; root may run jobs."""
        lines = (_SHARE / "default-configuration").read_text()
        changed = {"execd_spool_dir": f"{self.folder}/spool/node", "min_uid": "0", "min_gid": "0"}
        kept = [line for line in lines.splitlines() if line.split(" ")[0] not in changed]
        configuration = self.folder / "configuration"
        added = [f"{key} {value}" for key, value in changed.items()]
        configuration.write_text("\n".join([*kept, *added, ""]))
        database = str(self.folder / "spool/database")
        resources = _SHARE / "util/resources"
        self.run(str(_PROGRAMS / "spoolinit"), "berkeleydb", "libspoolb", database, "init")
        for what, value in (
            ("configuration", configuration),
            ("complexes", resources / "centry"),
            ("usersets", resources / "usersets"),
            ("managers", "root"),
        ):
            self.run(str(_PROGRAMS / "spooldefaults"), what, str(value))

    def _add(self, option: str, text: str) -> None:
        path = self.folder / "added"
        path.write_text(text.lstrip())
        self.run("qconf", option, str(path))


def missing() -> str:
    """Say why no Grid Engine can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in NEEDED if shutil.which(name, path=search_path()) is None]
    packages = "gridengine-master gridengine-exec gridengine-client"
    return f"needs {', '.join(absent)}: apt-get install {packages}" if absent else ""


def _late() -> str:
    return "Grid Engine does not come up, or does not stop"
