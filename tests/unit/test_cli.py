"""The command line: options follow signatures; a user's mistake is one line, a bug a traceback."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli import COMMANDS, create_app, import_function
from unmask.tables import PROBE, read_table

MakePart = Callable[..., Path]
PROBE_ALL = ("videos.probe:probe_shard", "--chunk", "0", "--chunks", "1")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unmask", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_has_a_name_and_a_type(name: str) -> None:
    arguments = create_app(name, import_function(name)).assemble_argument_collection()
    assert {"--log"} <= {option for one in arguments for option in one.names}


def test_rules_give_their_commands_all_options_that_they_require(repository: Path) -> None:
    files = [path.read_text() for path in (repository / "workflow/rules").glob("[!c]*.smk")]
    called = set()
    for rule in re.split(r"\n(?:use )?rule ", "\nrule ".join(files)):
        if command := re.search(r"python -m unmask ([\w.:]+)", rule):
            name = command[1]
            called.add(name)
            # The digest of a rule includes the module that it runs.
            digests = re.findall(r'source_digest\(\s*"([\w.]+)"', rule)
            assert not digests or name.partition(":")[0] in digests, name
            arguments = create_app(name, import_function(name)).assemble_argument_collection()
            known = {option for one in arguments for option in one.names}
            required = {one.name for one in arguments if one.required} - {"*", "--folder"}
            assert required <= set(re.findall(r"--[\w-]+", rule)) <= known, name
    assert {"demo", "videos.probe:probe_shard", "training.fit:fit"} <= called


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "--settings: no valid JSON"),
        ('{"trackin": {}}', "'trackin' is not a known key, did you mean 'tracking'?"),
        ('{"seed": -1}', "config: seed: "),
        ("[]", "--settings: no JSON object"),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings: str, message: str, tmp_path: Path) -> None:
    done = run(
        "training.experiments:check_experiments",
        "--output",
        tmp_path / "x.csv",
        "--settings",
        settings,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_message_is_in_the_log_and_on_the_terminal(make_part: MakePart, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", {})
    (part / "metadata.json").write_text("{")
    log = tmp_path / "logs/probe.log"
    done = run(*PROBE_ALL, "--parts", part, "--output", tmp_path / "probe.parquet", "--log", log)
    assert done.returncode == 2
    assert done.stderr.startswith(f"unmask: {part}/metadata.json: cannot be read as JSON")
    assert done.stderr.count("\n") == 1
    assert done.stderr.removeprefix("unmask: ") in log.read_text()


def test_a_file_that_cannot_be_written_is_told_in_one_line(
    make_part: MakePart, tmp_path: Path
) -> None:
    part = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    (tmp_path / "file").touch()
    done = run(*PROBE_ALL, "--parts", part, "--output", tmp_path / "file/probe.parquet")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr.splitlines()[-1]


def test_a_command_does_its_work_and_logs_it(make_part: MakePart, tmp_path: Path) -> None:
    part = make_part(tmp_path / "part", {"a.mp4": "REAL"})
    log = tmp_path / "probe.log"
    done = run(*PROBE_ALL, "--parts", part, "--output", tmp_path / "probe.parquet", "--log", log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(read_table(tmp_path / "probe.parquet", PROBE)) == 1
    assert "statuses: {'missing': 1}" in log.read_text()


def test_a_file_can_stand_for_its_lines(make_part: MakePart, tmp_path: Path) -> None:
    parts = [make_part(tmp_path / name, {f"{name}.mp4": "REAL"}) for name in ("one", "the other")]
    (tmp_path / "parts").write_text("".join(f"{part}\n" for part in parts))
    output = tmp_path / "probe.parquet"
    done = run(*PROBE_ALL, "--parts", f"@{tmp_path}/parts", "--output", output)
    assert done.returncode == 0, done.stderr
    assert set(read_table(output, PROBE)["part"]) == {"one", "the other"}


def test_a_list_may_be_empty_whatever_its_name() -> None:
    name = "splits.folds:write_splits"
    lists = ["--identities", "--given", "--ledger", "x", "--output", "x", "--audit", "x"]
    options = create_app(name, import_function(name))(lists, exit_on_error=False)
    assert (options["identities"], options["given"]) == ([], [])


def test_the_help_lists_all_commands_with_a_line_each_and_imports_none() -> None:
    show = (
        "import sys; from unmask.cli import main; main(['--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    described = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert {*COMMANDS, "videos.probe:probe_shard", "kaggle.bundle:export_bundle"} <= set(described)
    assert lines[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("analyse",), "faces.cropping:crop_shard"),
        (("videos.prob:probe_shard",), "videos.probe:probe_shard"),
        (("videos.probe:probe",), "videos.probe:probe_shard"),
        (("videos.probe:probe_shard",), "--parts"),
        (("videos.probe:probe_shard", "--parts", "x", "--outputs", "y"), "--chunk"),
        ((*PROBE_ALL, "--parts", "x", "--output", "y", "--worker", "2"), "--worker"),
        ((*PROBE_ALL, "--parts", "x", "--output", "y", "--workers", "few"), "few"),
    ],
)
def test_a_misspelt_command_or_option_is_named(arguments: tuple[str, ...], named: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_summary_of_nothing_names_the_missing_file(tmp_path: Path) -> None:
    done = run("summary", "--results", tmp_path)
    assert done.returncode == 2
    assert str(tmp_path / "evaluation/comparison.csv") in done.stderr


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
