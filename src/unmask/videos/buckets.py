"""Parts in a bucket: found by name, and fetched by Snakemake for the jobs that read them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from unmask.errors import UnmaskError

logger = logging.getLogger(__name__)

_ZIP = ".zip"
# Of a URL's scheme: Snakemake's storage plugin.
_PLUGINS = {"s3": "s3", "gs": "gcs"}


def is_url(root: str) -> bool:
    """Tell whether a folder of parts is a URL instead of a path."""
    return "://" in root


def find_stored_parts(
    url: str, storage: Any, key: str = "data_root", retrieve: bool = True
) -> dict[str, Any]:
    """Return the zip archives directly below `url` by part name, as inputs of rules.

    `url` may also be one archive. Names are listed, a thousand a request, and nothing is fetched:
    an archive without a `metadata.json` is noticed by the job that reads it.

    Args:
        url: `s3://BUCKET/FOLDER` or `gs://BUCKET/FOLDER`.
        storage: Snakemake's `storage`, which knows endpoint and credentials.
        key: of the configuration, that names it: messages do as well.
        retrieve: whether this process, or a job that sees its files, fetches them.

    Raises:
        UnmaskError: the bucket cannot be listed, or no archive is there.
    """
    scheme, bucket, path = urlsplit(url)[:3]
    if scheme not in _PLUGINS or not bucket:
        raise UnmaskError(f"{key}: {url}: give a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
    plugin = _PLUGINS[scheme]
    if find_spec(f"snakemake_storage_plugin_{plugin}") is None:
        raise UnmaskError(f"{key}: {url}: pip install snakemake-storage-plugin-{plugin}")
    prefix = path.strip("/")
    if prefix and not prefix.endswith(_ZIP):
        prefix += "/"
    fetched = partial(getattr(storage, plugin), retrieve=retrieve)
    try:
        objects, folders = _LISTINGS[plugin](fetched(url).flags["storage_object"], prefix)
    # Each SDK has exceptions of its own, and whatever they say is about the bucket.
    except Exception as error:
        raise UnmaskError(
            f"{key}: cannot list {url} ({' '.join(str(error).split())}); check the URL, the "
            f"endpoint and the credentials: SNAKEMAKE_STORAGE_{plugin.upper()}_…, docs/cluster.md"
        ) from None
    archives = [PurePosixPath(name) for name in objects if name.endswith(_ZIP)]
    if not archives:
        raise UnmaskError(
            f"{key}: no {_ZIP} in {url}; in a bucket, a part is a {_ZIP} of a folder with its "
            "metadata.json and videos"
        )
    if folders:
        logger.warning("%s: only %s is used of it, not the folders %s", url, _ZIP, folders)
    return {archive.stem: fetched(f"{scheme}://{bucket}/{archive}") for archive in archives}


def _list_s3(stored: Any, prefix: str) -> tuple[list[str], list[str]]:
    # The plugin's own `list_candidate_matches` refuses every query: it looks for the bucket's name
    # where the query has `s3://` (0.3.6).
    listing = stored.provider.s3c.meta.client.get_paginator("list_objects_v2")
    pages = list(listing.paginate(Bucket=stored.bucket, Prefix=prefix, Delimiter="/"))
    return (
        [one["Key"] for page in pages for one in page.get("Contents", [])],
        [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])],
    )


def _list_gcs(stored: Any, prefix: str) -> tuple[list[str], list[str]]:
    blobs = stored.bucket.list_blobs(prefix=prefix, delimiter="/")
    return [blob.name for blob in blobs], sorted(blobs.prefixes)


_LISTINGS: dict[str, Callable[[Any, str], tuple[list[str], list[str]]]] = {
    "s3": _list_s3,
    "gcs": _list_gcs,
}
