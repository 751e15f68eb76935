"""Parts in a bucket of an S3 server in this process: which are fetched, and errors.

Needs the packages of `requirements-s3.txt`.
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

from running import Workflow, shards_of

REASON = "their packages: pip install --no-deps -r requirements-s3.txt"
boto3 = pytest.importorskip("boto3", reason=REASON)
moto = pytest.importorskip("moto.server", reason=REASON)
pytest.importorskip("snakemake_storage_plugin_s3", reason=REASON)

pytestmark = pytest.mark.workflow

SHARD = "dfdc_train_part_1-01"


@dataclass(frozen=True)
class Bucket:
    """A bucket `dfdc` with a .zip for each part in `train/`."""

    endpoint: str
    client: Any
    record: Path

    def put(self, folder: Path, key: str) -> None:
        """Upload a folder as an archive."""
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
        record.write_text("")
        yield bucket
        server.stop()


def config(challenge: DemoSummary, root: str) -> list[str]:
    return [f"data_root={root}", f"test_root={challenge.root / 'test'}", "shards_per_part=2"]


Run = dict[str, Any]


@pytest.fixture
def options(bucket: Bucket, challenge: DemoSummary, tmp_path: Path) -> Run:
    """Options of a run on the bucket in a directory of its own."""
    return {"directory": tmp_path, "config": config(challenge, "s3://dfdc/train")}


@pytest.mark.slow
def test_parts_of_a_bucket_are_fetched_once_and_give_the_bytes_of_local_folders(
    workflow: Workflow, challenge: DemoSummary, bucket: Bucket, options: Run, tmp_path: Path
) -> None:
    bucket.fetched()
    workflow.finish(f"results/faces/{SHARD}.tar", **options)
    assert bucket.fetched() == {"dfdc_train_part_1": 1}
    workflow.finish("results/splits.parquet", **options)
    assert bucket.fetched() == {"dfdc_train_part_0": 1, "dfdc_train_part_1": 1}
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".zip", ".mp4")] == []
    assert "Nothing to be done" in workflow.finish("results/splits.parquet", **options)

    single = ["data_root=s3://dfdc/train/dfdc_train_part_1.zip", *options["config"][1:]]
    printed = workflow.finish("-n", f"results/faces/{SHARD}.tar", directory=tmp_path, config=single)
    assert "Nothing to be done" in printed

    # A replaced part is processed again, and alone.
    bucket.put(challenge.root / "train/dfdc_train_part_0", "train/dfdc_train_part_0.zip")
    printed = workflow.finish("-n", "results/splits.parquet", **options)
    for rule in ("probe", "extract_frames", "crop_faces"):
        assert shards_of(printed, rule) == ["dfdc_train_part_0-00", "dfdc_train_part_0-01"]
    assert bucket.fetched() == {}

    local = tmp_path / "local"
    folders = config(challenge, str(challenge.root / "train"))
    workflow.finish("results/splits.parquet", directory=local, config=folders)
    for path in (local / "results").rglob("*"):
        if path.is_file() and path.parent.name != "inventory":
            assert (tmp_path / path.relative_to(local)).read_bytes() == path.read_bytes(), path


def test_small_parts_of_a_bucket_stay_apart(
    workflow: Workflow, bucket: Bucket, options: Run, tmp_path: Path
) -> None:
    bucket.fetched()
    joined = [*options["config"][:2], "parts_per_shard=auto"]
    printed = workflow.finish("-n", "--until", "probe", directory=tmp_path, config=joined)
    assert shards_of(printed, "probe") == ["dfdc_train_part_0-00", "dfdc_train_part_1-00"]
    assert bucket.fetched() == {}


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        ("s3://nobodys/train", "cannot list s3://nobodys/train (An error occurred (NoSuchBucket)"),
        ("s3://dfdc/unpacked", "no .zip in s3://dfdc/unpacked"),
    ],
)
def test_a_bucket_without_parts_is_one_line(
    workflow: Workflow,
    challenge: DemoSummary,
    bucket: Bucket,
    tmp_path: Path,
    root: str,
    problem: str,
) -> None:
    line = workflow.refuse("-n", directory=tmp_path, config=config(challenge, root))
    assert line.startswith("unmask: data_root: ")
    assert problem in line


def test_wrong_credentials_are_one_line_that_names_their_variables(
    workflow: Workflow, bucket: Bucket, options: Run
) -> None:
    bucket.administer("reset-auth", "0")
    try:
        line = workflow.refuse("-n", **options)
    finally:
        bucket.administer("reset-auth", "inf")
    assert "data_root: cannot list s3://dfdc/train (An error occurred (InvalidAccessKeyId)" in line
    assert "SNAKEMAKE_STORAGE_S3_" in line
