"""Parts in a bucket: listed here, and fetched by Snakemake for the jobs that read them."""

from __future__ import annotations

import logging
from functools import partial
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from unmask.errors import UnmaskError

logger = logging.getLogger(__name__)

_PLUGINS = {"s3": "s3", "gs": "gcs"}  # Snakemake's storage plugin for each URL scheme


def is_url(root: str) -> bool:
    """Return whether a folder of parts is a URL instead of a path."""
    return "://" in root


def find_stored_parts(
    url: str, storage: Any, key: str = "data_root", retrieve: bool = True
) -> dict[str, Any]:
    """Return the zip archives directly below a URL by part name, as inputs of rules.

    Only names are listed, nothing is fetched: an archive without `metadata.json` fails in the job
    that reads it.

    Args:
        url: `s3://BUCKET/FOLDER` or `gs://BUCKET/FOLDER`, or the URL of a single archive.
        storage: Snakemake's `storage`, which knows endpoint and credentials.
        key: configuration key that holds the URL, for messages.
        retrieve: whether Snakemake fetches the archives for the jobs of this process.

    Raises:
        UnmaskError: the URL is not one of a bucket, the storage plugin is not installed, the bucket
            cannot be listed, or it holds no archive there.
    """
    scheme, bucket, path = urlsplit(url)[:3]
    if scheme not in _PLUGINS or not bucket:
        raise UnmaskError(f"{key}: {url}: give a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
    plugin = _PLUGINS[scheme]
    if find_spec(f"snakemake_storage_plugin_{plugin}") is None:
        raise UnmaskError(f"{key}: {url}: pip install snakemake-storage-plugin-{plugin}")
    archive_at = partial(getattr(storage, plugin), retrieve=retrieve)
    settings = archive_at(url).flags["storage_object"].provider.settings
    prefix = path.strip("/")
    if prefix and not prefix.endswith(".zip"):
        prefix += "/"
    try:
        names = (_list_s3 if plugin == "s3" else _list_gcs)(settings, bucket, prefix)
    except Exception as error:  # each SDK has its own; all of them are about the bucket
        raise UnmaskError(
            f"{key}: cannot list {url} ({' '.join(str(error).split())}); check the URL, the "
            f"endpoint and the credentials: SNAKEMAKE_STORAGE_{plugin.upper()}_…, docs/cluster.md"
        ) from None
    archives = [PurePosixPath(name) for name in names if name.endswith(".zip")]
    if not archives:
        raise UnmaskError(
            f"{key}: no .zip in {url}; in a bucket, each part is a .zip of a folder with its "
            "metadata.json and videos"
        )
    if folders := [name for name in names if name.endswith("/") and name != prefix]:
        logger.warning("%s: only the .zip files are used, not the folders %s", url, folders)
    return {archive.stem: archive_at(f"{scheme}://{bucket}/{archive}") for archive in archives}


# The names directly below a prefix; those of folders end with a slash. Both functions use SDKs that
# the plugins bring along: Snakemake's own `glob_wildcards` is refused by the S3 plugin (0.3.6).
def _list_s3(settings: Any, bucket: str, prefix: str) -> list[str]:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        aws_session_token=settings.token,
        config=boto3.session.Config(signature_version=settings.signature_version),
    )
    listing = client.get_paginator("list_objects_v2")
    pages = list(listing.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"))
    objects = [one["Key"] for page in pages for one in page.get("Contents", [])]
    return objects + [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])]


def _list_gcs(settings: Any, bucket: str, prefix: str) -> list[str]:
    from google.cloud.storage import Client

    billed = Client().bucket(bucket, user_project=settings.project)
    blobs = billed.list_blobs(prefix=prefix, delimiter="/")
    return [*(blob.name for blob in blobs), *sorted(blobs.prefixes)]
