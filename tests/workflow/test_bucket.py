"""Parts in a bucket: what is fetched, what comes of it, and what is said where it cannot be.

By hand: `pytest tests/workflow/test_bucket.py`, once `requirements-s3.txt` is installed. The bucket
is that of an S3 server in this process (moto).
"""

from __future__ import annotations

import re
import shutil
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from unmask.demo import DemoSummary

from running import Workflow

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

REASON = "their packages: pip install --no-deps -r requirements-s3.txt"
boto3 = pytest.importorskip("boto3", reason=REASON)
moto = pytest.importorskip("moto.server", reason=REASON)
pytest.importorskip("snakemake_storage_plugin_s3", reason=REASON)

SHARD = "dfdc_train_part_1-01"


@dataclass(frozen=True)
class Bucket:
    """A bucket `dfdc` of an S3 server in this process, with a part a zip in `train/`."""

    endpoint: str
    client: Any
    record: Path

    def put(self, folder: Path, key: str) -> None:
        """Upload a folder as a zip that holds it."""
        name = str(self.record.with_name(folder.name))
        archive = shutil.make_archive(name, "zip", folder.parent, folder.name)
        self.client.upload_file(archive, "dfdc", key)

    def administer(self, path: str, body: str = "") -> None:
        url = f"{self.endpoint}/moto-api/{path}"
        request = urllib.request.Request(url, body.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    def fetched(self) -> Counter[str]:
        """Return how often each part has been fetched since the last call."""
        requests = re.findall(r'"method": "GET", "url": "([^"]*)"', self.record.read_text())
        self.record.write_text("")
        paths = [Path(urlsplit(url).path) for url in requests]
        return Counter(path.stem for path in paths if path.suffix == ".zip")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, challenge: DemoSummary) -> Iterator[Bucket]:
    record = tmp_path_factory.mktemp("bucket") / "requests"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MOTO_RECORDER_FILEPATH", str(record))
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        access = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **access)
        environment.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", endpoint)
        environment.setenv("SNAKEMAKE_STORAGE_S3_ACCESS_KEY", "key")
        environment.setenv("SNAKEMAKE_STORAGE_S3_SECRET_KEY", "secret")
        bucket = Bucket(endpoint, client, record)
        client.create_bucket(Bucket="dfdc")
        for part in (challenge.root / "train").iterdir():
            bucket.put(part, f"train/{part.name}.zip")
        client.put_object(Bucket="dfdc", Key="train/notes.txt", Body=b"no part")
        client.put_object(Bucket="dfdc", Key="unpacked/part_0/metadata.json", Body=b"{}")
        bucket.administer("recorder/start-recording")
        yield bucket
        server.stop()


def config(challenge: DemoSummary, root: str) -> list[str]:
    return [f"data_root={root}", f"test_root={challenge.root / 'test'}", "shards_per_part=2"]


@dataclass(frozen=True)
class Split:
    """A run up to the split: how often it fetched each part, for one shard and for the others."""

    output: Path
    config: list[str]
    by_one_shard: Counter[str]
    by_the_rest: Counter[str]


@pytest.fixture(scope="module")
def split(
    tmp_path_factory: pytest.TempPathFactory,
    workflow: Workflow,
    challenge: DemoSummary,
    bucket: Bucket,
) -> Split:
    output = tmp_path_factory.mktemp("from_bucket")
    options: dict[str, Any] = {"directory": output, "config": config(challenge, "s3://dfdc/train")}
    bucket.record.write_text("")
    workflow.finish(f"results/faces/{SHARD}.tar", **options)
    by_one_shard = bucket.fetched()
    workflow.finish("results/splits.parquet", **options)
    return Split(output, options["config"], by_one_shard, bucket.fetched())


def test_a_shard_fetches_its_part_once_and_no_other(split: Split) -> None:
    assert split.by_one_shard == {"dfdc_train_part_1": 1}


def test_the_shards_of_a_part_share_what_is_fetched_and_leave_nothing(split: Split) -> None:
    assert split.by_the_rest == {"dfdc_train_part_0": 1, "dfdc_train_part_1": 1}
    left = [path for path in split.output.rglob("*") if path.suffix in (".zip", ".mp4")]
    assert left == []


def test_shards_and_splits_are_those_of_local_folders_byte_for_byte(
    split: Split, workflow: Workflow, challenge: DemoSummary, tmp_path: Path
) -> None:
    local = config(challenge, str(challenge.root / "train"))
    workflow.finish("results/splits.parquet", directory=tmp_path, config=local)

    def contents(output: Path) -> dict[str, bytes]:
        files = (path for path in (output / "results").rglob("*") if path.is_file())
        return {str(path.relative_to(output)): path.read_bytes() for path in files}

    ours, theirs = contents(split.output), contents(tmp_path)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_second_run_fetches_nothing_and_a_replaced_part_is_worked_on_alone(
    split: Split, workflow: Workflow, challenge: DemoSummary, bucket: Bucket
) -> None:
    options: dict[str, Any] = {"directory": split.output, "config": split.config}
    bucket.fetched()
    assert "Nothing to be done" in workflow.finish("results/splits.parquet", **options)
    bucket.put(challenge.root / "train" / "dfdc_train_part_0", "train/dfdc_train_part_0.zip")
    printed = workflow.finish("-n", "results/splits.parquet", **options)
    jobs = re.findall(r"rule (\w+):(?:\n .*)*?\n +wildcards: shard=(\S+)", printed)
    shards = ("dfdc_train_part_0-00", "dfdc_train_part_0-01")
    stages = ("probe", "extract_frames", "crop_faces")
    assert sorted(jobs) == sorted((stage, shard) for stage in stages for shard in shards)
    assert bucket.fetched() == {}


def test_small_parts_of_a_bucket_stay_apart(
    workflow: Workflow, challenge: DemoSummary, bucket: Bucket, tmp_path: Path
) -> None:
    options = [*config(challenge, "s3://dfdc/train")[:2], "parts_per_shard=auto"]
    printed = workflow.finish("-n", "--until", "probe", directory=tmp_path, config=options)
    probed = re.findall(r"rule probe:(?:\n .*)*?\n +wildcards: shard=(\S+)", printed)
    assert sorted(probed) == ["dfdc_train_part_0-00", "dfdc_train_part_1-00"]
    assert bucket.fetched() == {}


def test_a_single_zip_is_a_part_too(split: Split, workflow: Workflow) -> None:
    root = "data_root=s3://dfdc/train/dfdc_train_part_1.zip"
    printed = workflow.finish(
        "-n", f"results/faces/{SHARD}.tar", directory=split.output, config=[root, *split.config[1:]]
    )
    assert "Nothing to be done" in printed


def refused(workflow: Workflow, challenge: DemoSummary, root: str, output: Path) -> str:
    done = workflow.run("-n", directory=output, config=config(challenge, root))
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    return next(line for line in done.stdout.splitlines() if line.startswith("unmask: "))


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("s3://nobodys/train", "cannot list s3://nobodys/train (An error occurred (NoSuchBucket)"),
        ("s3://dfdc/unpacked", "no .zip in s3://dfdc/unpacked; in a bucket, each part is a .zip"),
    ],
)
def test_a_bucket_without_parts_is_one_line(
    workflow: Workflow, challenge: DemoSummary, bucket: Bucket, tmp_path: Path, root: str, said: str
) -> None:
    line = refused(workflow, challenge, root, tmp_path)
    assert line.startswith("unmask: data_root: ")
    assert said in line


def test_wrong_credentials_are_one_line_that_says_where_they_come_from(
    workflow: Workflow, challenge: DemoSummary, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.administer("reset-auth", "0")
    try:
        line = refused(workflow, challenge, "s3://dfdc/train", tmp_path)
    finally:
        bucket.administer("reset-auth", "inf")
    assert "data_root: cannot list s3://dfdc/train (An error occurred (InvalidAccessKeyId)" in line
    assert "check the URL, the endpoint and the credentials: SNAKEMAKE_STORAGE_S3_" in line
