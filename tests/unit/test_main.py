"""The command starts with the memory settings that decoding asks for."""

import os
import subprocess
import sys

import pytest

SHOW = (
    "import os, sys; sys.argv = sys.orig_argv[2:];"
    "import unmask.cli; unmask.cli.main = lambda: print(os.environ.get('GLIBC_TUNABLES'));"
    "from unmask.__main__ import main; main()"
)


def settings_of(command: str, **environment: str) -> str:
    """What glibc was told when the process started that runs a command."""
    inherited = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, command],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_decoding_starts_with_large_pages_and_a_users_own_settings_win() -> None:
    assert "hugetlb=1" in settings_of("extract-frames")
    assert settings_of("probe") == "None"
    assert settings_of("extract-frames", GLIBC_TUNABLES="glibc.malloc.check=0") == (
        "glibc.malloc.check=0"
    )
