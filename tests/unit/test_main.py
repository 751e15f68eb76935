"""The command starts with the settings of memory and threads that its work asks for."""

import os
import subprocess
import sys

import pytest

SHOW = (
    "import os, sys; sys.argv = sys.orig_argv[2:];"
    "import unmask.cli; unmask.cli.main = lambda: print(os.environ.get({name!r}));"
    "from unmask.__main__ import main; main()"
)


def settings_of(command: str, name: str = "GLIBC_TUNABLES", **environment: str) -> str:
    """What a variable says when a command runs."""
    inherited = {k: v for k, v in os.environ.items() if k != name}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW.format(name=name), command],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_heavy_work_starts_with_large_pages_and_a_users_own_settings_win() -> None:
    assert "hugetlb=1" in settings_of("videos.extraction:write_stream")
    # A network's activations are larger than a decoder's pictures.
    assert "hugetlb=1:glibc.malloc.mmap_threshold=1073741824" in settings_of("training.fit:fit")
    assert settings_of("videos.probe:probe_shard") == "None"
    assert settings_of("videos.extraction:write_stream", GLIBC_TUNABLES="glibc.malloc.check=0") == (
        "glibc.malloc.check=0"
    )


def test_threads_wait_asleep_unless_a_user_says_otherwise() -> None:
    name = "OMP_WAIT_POLICY"
    assert settings_of("training.fit:fit", name) == "PASSIVE"
    assert settings_of("training.fit:fit", name, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
