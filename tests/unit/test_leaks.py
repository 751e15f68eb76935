"""The leak audit finds what was planted, in splits that it did not make."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from unmask.audits.duplicates import find_near_duplicates, find_same_files, find_same_names
from unmask.audits.leaks import audit_leaks
from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.faces.identity import embed_shard
from unmask.splits.checks import straddling_families
from unmask.tables import LEAKS, SPLITS, VIDEOS, read_table, write_table
from unmask.vocabulary import Status


def audited(
    worked: Path, folder: Path, folds: dict[str, int]
) -> tuple[dict[str, object], pd.DataFrame, Path]:
    """Audit a split of the worked part's four clips, all of which show one portrait."""
    ledger = pd.DataFrame({"video": list(folds), "part": "part", "status": Status.OK})
    ledger["original"] = ledger["video"].map({"c.mp4": "a.mp4", "d.mp4": "b.mp4"})
    ledger["label"] = np.where(ledger["original"].isna(), "REAL", "FAKE")
    ledger["family"] = ledger["original"].fillna(ledger["video"])
    ledger["group"], ledger["fold"] = ledger["family"], list(folds.values())
    ledger = ledger.reindex(columns=[*VIDEOS.columns, "group", "fold"])
    write_table(ledger, VIDEOS, folder / "videos.parquet")
    write_table(ledger, SPLITS, folder / "splits.parquet")
    index = worked / "faces/part-00.parquet"
    embed_shard(worked / "faces/part-00.tar", index, folder / "identities.parquet")
    files = [folder / name for name in ("leaks.json", "leaks.parquet", "pairs.png")]
    try:
        audit_leaks(
            folder / "splits.parquet",
            folder / "videos.parquet",
            [folder / "identities.parquet"],
            worked / "faces",
            [index],
            SplitConfig(),
            *files,
        )
    finally:
        summary = json.loads(files[0].read_text())
        pairs = read_table(files[1], LEAKS)
    return summary, pairs, files[2]


def test_a_person_in_two_folds_is_found_and_shown(worked_part: Path, tmp_path: Path) -> None:
    folds = {"a.mp4": 0, "b.mp4": 1, "c.mp4": 0, "d.mp4": 1}
    summary, pairs, sheet = audited(worked_part, tmp_path, folds)
    assert summary["straddling_originals"] == []
    real, fake = summary["real_real"], summary["fake_real"]
    assert isinstance(real, dict)
    assert isinstance(fake, dict)
    assert real["pairs_at_threshold"] == 1
    assert real["closest"] > 0.7
    assert fake["pairs_at_threshold"] == fake["fake_tracks"] == 2
    (found,) = pairs[pairs["kind"] == "real_real"].to_dict("records")
    assert {found["video_a"], found["video_b"]} == {"a.mp4", "b.mp4"}
    assert found["fold_a"] != found["fold_b"]
    picture = cv2.imread(str(sheet))
    assert picture.std() > 20


def test_nothing_in_two_folds_is_nothing_found(worked_part: Path, tmp_path: Path) -> None:
    folds = dict.fromkeys(("a.mp4", "b.mp4", "c.mp4", "d.mp4"), 0)
    summary, pairs, sheet = audited(worked_part, tmp_path, folds)
    assert summary["real_real"] == {"pairs_at_threshold": 0, "closest": None}
    assert pairs.empty
    assert sheet.is_file()


def test_a_family_in_two_folds_stops_the_audit_after_it_was_written(
    worked_part: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnmaskError, match=r"families.* a\.mp4"):
        audited(worked_part, tmp_path, {"a.mp4": 0, "b.mp4": 1, "c.mp4": 2, "d.mp4": 1})
    summary = json.loads((tmp_path / "leaks.json").read_text())
    assert summary["straddling_originals"] == ["a.mp4"]


def videos(**columns: list[object]) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    number = range(len(frame))
    names = [f"v{one}" for one in number]
    defaults = pd.DataFrame({"video": names, "fold": number, "group": names, "original": None})
    defaults = defaults.assign(part="p", label="REAL", status=Status.OK)
    return frame.join(defaults.drop(columns=frame.columns, errors="ignore"))


def test_fakes_of_an_absent_original_in_two_folds_straddle() -> None:
    assert straddling_families(videos(original=["gone", "gone", None])) == ["gone"]
    assert straddling_families(videos(original=["gone", "gone", None], fold=[1, 1, 0])) == []


def test_a_fake_of_a_fake_in_another_fold_straddles() -> None:
    chain = videos(original=[None, "v0", "v1"], fold=[0, 0, 1])
    assert straddling_families(chain) == ["v1"]


def test_equal_files_of_two_groups_are_paired() -> None:
    found = find_same_files(videos(fingerprint=["x", "y", "x", None, None]))
    assert found[["video_a", "video_b"]].to_numpy().tolist() == [["v0", "v2"]]
    assert find_same_files(videos(fingerprint=["x", "x"], group=["g", "g"])).empty


def test_names_that_two_parts_share_are_paired() -> None:
    found = find_same_names(videos(video=["a", "a", "b"], part=["p", "q", "q"]))
    assert found[["part_a", "part_b"]].to_numpy().tolist() == [["p", "q"]]


def test_near_duplicates_of_two_groups_are_paired_by_their_bits() -> None:
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(24) for _ in range(5)]
    changed = bytearray(hashes[0])
    changed[3] ^= 0b10110
    frame = videos(phash=[one.hex() for one in [*hashes, bytes(changed), hashes[1]]])
    frame.loc[6, ["label", "original"]] = ["FAKE", "v2"]  # shows v2's footage, says its original
    found, counts = find_near_duplicates(frame)
    assert found[["video_a", "video_b", "distance"]].to_numpy().tolist() == [["v0", "v5", 3]]
    assert counts == {"pairs": 1, "pairs_in_two_folds": 1}


def test_thousands_of_equal_pictures_are_all_counted_and_the_closest_kept() -> None:
    """Black clips, say: more pairs than anybody looks at, in several blocks."""
    rng = np.random.default_rng(0)
    frame = videos(phash=["00" * 24] * 1200 + [rng.bytes(24).hex() for _ in range(50)])
    frame.loc[1199, "phash"] = "01" + "00" * 23
    frame["fold"] = np.arange(len(frame)) % 2
    found, counts = find_near_duplicates(frame)
    assert counts == {"pairs": 1200 * 1199 // 2, "pairs_in_two_folds": 600 * 600}
    assert len(found) == 1000
    assert found["distance"].max() == 0
    assert (found["video_a"] != found["video_b"]).all()
    assert not found.duplicated(["video_a", "video_b"]).any()
