"""The command line tells a user's mistake in one line and keeps tracebacks for bugs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.config import config_schema, config_table
from unmask.tables import PROBE, read_table

MakePart = Callable[..., Path]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unmask", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "--settings: no valid JSON"),
        ('{"trackin": {}}', "'trackin' is not a known key, did you mean 'tracking'?"),
        ('{"seed": -1}', "config: seed: "),
        ("[]", "config: "),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings: str, message: str, tmp_path: Path) -> None:
    done = run("tracking", "--out", tmp_path / "x.json", "--settings", settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_message_is_in_the_log_and_on_the_terminal(make_part: MakePart, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", {})
    (part / "metadata.json").write_text("{")
    log = tmp_path / "logs/probe.log"
    done = run("probe", "--parts", part, "--out", tmp_path / "probe.parquet", "--log", log)
    assert done.returncode == 2
    assert done.stderr.startswith(f"unmask: {part}/metadata.json: is no valid JSON at line 1")
    assert done.stderr.count("\n") == 1
    assert done.stderr.removeprefix("unmask: ") in log.read_text()


def test_a_file_that_cannot_be_written_is_told_in_one_line(
    make_part: MakePart, tmp_path: Path
) -> None:
    part = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    (tmp_path / "file").touch()
    done = run("probe", "--parts", part, "--out", tmp_path / "file/probe.parquet")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr.splitlines()[-1]


def test_a_command_does_its_work_and_logs_it(make_part: MakePart, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    log = tmp_path / "probe.log"
    done = run("probe", "--parts", part, "--out", tmp_path / "probe.parquet", "--log", log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(read_table(tmp_path / "probe.parquet", PROBE)) == 1
    assert "statuses: {'missing': 1}" in log.read_text()


def test_an_unknown_command_names_those_there_are() -> None:
    done = run("analyse")
    assert done.returncode == 2
    assert "crop-faces" in done.stderr


def test_the_schema_and_the_table_are_printed() -> None:
    assert json.loads(run("schema").stdout) == config_schema()
    assert run("schema", "--table").stdout.strip() == config_table()


def test_a_summary_of_nothing_says_what_to_run(tmp_path: Path) -> None:
    done = run("summary", "--results", tmp_path)
    assert done.returncode == 2
    assert "not there yet; run snakemake first" in done.stderr


def test_experiments_are_listed_with_their_sizes(tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text(
        "experiments:\n  tuned: {recipe: config/recipes/vit_norm.yaml, seeds: [1, 2]}\n"
    )
    done = run("experiments", "--config", config)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "tf_efficientnet_lite0" in lines["baseline"]
    assert "vit_base_patch16_224" in lines["tuned"]
    assert "1 x 2" in lines["tuned"]
    config.write_text("experiments:\n  tuned: {backbone: vit_bas_patch16_224}\n")
    done = run("experiments", "--config", config)
    assert done.returncode == 2
    assert "did you mean 'vit_base_patch16_224'" in done.stderr
