"""A URL that no bucket can be listed by says so before anything is asked of a network."""

import pytest

from unmask.errors import UnmaskError
from unmask.videos.buckets import find_stored_parts


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://dfdc/train", "evaluation.sets.wild: ftp://dfdc/train: give a folder, s3://BUCKET"),
        ("s3:///train", "evaluation.sets.wild: s3:///train: give a folder, s3://BUCKET/FOLDER"),
    ],
)
def test_a_url_that_names_no_bucket_is_refused(url: str, said: str) -> None:
    with pytest.raises(UnmaskError, match=said):
        find_stored_parts(url, None, "evaluation.sets.wild")


def test_a_plugin_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.videos.buckets.find_spec", lambda name: None)
    with pytest.raises(UnmaskError, match="gs://dfdc: pip install snakemake-storage-plugin-gcs"):
        find_stored_parts("gs://dfdc", None)
