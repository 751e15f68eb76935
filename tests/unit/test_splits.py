"""No family is ever on two sides of a split, and folds come out even."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.splits.audits import audit_splits
from unmask.splits.folds import assign_folds, write_splits
from unmask.splits.groups import group_videos
from unmask.splits.roles import role_of, with_roles
from unmask.tables import SPLITS, VIDEOS, Role, Status, read_table, write_table


def dfdc_like(reals: int = 68, fakes: int = 332, seed: int = 0) -> pd.DataFrame:
    """Make a ledger of DFDC's shape: 17 % REAL, most with several fakes, some with none."""
    rng = np.random.default_rng(seed)
    rows = [(f"r{i:03}.mp4", "REAL", None) for i in range(reals)]
    rows += [
        (f"f{i:03}.mp4", "FAKE", f"r{original:03}.mp4")
        for i, original in enumerate(rng.choice(reals, fakes, p=rng.dirichlet(np.ones(reals))))
    ]
    ledger = pd.DataFrame(rows, columns=["video", "label", "original"])
    ledger["family"] = ledger["original"].fillna(ledger["video"])
    ledger["status"] = Status.OK
    ledger["part"] = "part_0"
    return ledger.reindex(columns=list(VIDEOS.columns))


def split(
    ledger: pd.DataFrame, folder: Path, folds: int = 5, seed: int = 1
) -> tuple[pd.DataFrame, dict[str, object]]:
    write_table(ledger, VIDEOS, folder / "videos.parquet")
    write_splits(
        folder / "videos.parquet",
        SplitConfig(folds=folds),
        seed,
        folder / "splits.parquet",
        folder / "audit.json",
    )
    audit = json.loads((folder / "audit.json").read_text())
    return read_table(folder / "splits.parquet", SPLITS), audit


def test_a_fake_and_its_original_share_a_group() -> None:
    videos = pd.DataFrame(
        {"video": ["r", "f", "g", "alone"], "original": [None, "r", "r", None]}, index=[4, 2, 7, 1]
    )
    assert group_videos(videos).to_dict() == {4: "f", 2: "f", 7: "f", 1: "alone"}


def test_fakes_of_an_original_without_a_row_share_a_group() -> None:
    videos = pd.DataFrame({"video": ["f", "g", "h"], "original": ["gone", "gone", "other"]})
    groups = group_videos(videos).tolist()
    assert groups[0] == groups[1] != groups[2]


def test_a_fake_of_a_fake_is_in_the_group_of_both() -> None:
    videos = pd.DataFrame({"video": ["a", "b", "c"], "original": [None, "a", "b"]})
    assert group_videos(videos).nunique() == 1


def test_a_fake_and_its_original_share_a_fold(tmp_path: Path) -> None:
    splits, audit = split(dfdc_like(), tmp_path)
    assert (splits.groupby("family")["fold"].nunique() == 1).all()
    assert audit["straddling_families"] == []
    assert len(splits) == 400


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folds_are_even_in_both_labels(seed: int, tmp_path: Path) -> None:
    splits, _ = split(dfdc_like(seed=seed), tmp_path, seed=seed)
    counts = splits.groupby(["fold", "label"]).size().unstack()
    largest = splits.groupby("group").size().max()
    assert len(counts) == 5
    assert counts["FAKE"].max() - counts["FAKE"].min() <= largest
    assert counts["FAKE"].min() >= 0.8 * 332 / 5
    assert counts["REAL"].min() >= 0.5 * 68 / 5


def test_the_same_seed_splits_the_same_and_another_otherwise(tmp_path: Path) -> None:
    ledger = dfdc_like()
    first, _ = split(ledger, tmp_path / "a")
    split(ledger.sample(frac=1, random_state=0), tmp_path / "b")
    other, _ = split(ledger, tmp_path / "c", seed=2)
    assert (tmp_path / "a/splits.parquet").read_bytes() == (
        tmp_path / "b/splits.parquet"
    ).read_bytes()
    assert (first["fold"] != other["fold"]).mean() > 0.5


def test_faceless_videos_have_a_fold_and_those_without_a_file_have_none(tmp_path: Path) -> None:
    ledger = dfdc_like(20, 40)
    kept = [Status.NO_FACE, Status.UNREADABLE, Status.DECODE_ERROR, Status.NO_VIDEO_STREAM]
    left = [Status.MISSING, Status.BAD_METADATA, Status.UNSAFE_NAME, Status.DUPLICATE]
    ledger.loc[ledger.index[: len(kept)], "status"] = kept
    ledger.loc[ledger.index[30 : 30 + len(left)], "status"] = left
    splits, _ = split(ledger, tmp_path)
    expected = ledger[~ledger["status"].isin(left)]["video"]
    assert sorted(splits["video"]) == sorted(expected)
    assert (splits.groupby("family")["fold"].nunique() == 1).all()


def test_the_audit_counts_every_video_and_names_absent_originals(tmp_path: Path) -> None:
    ledger = dfdc_like(20, 60)
    absent = ledger["original"].mode()[0]
    _, audit = split(ledger[ledger["video"] != absent], tmp_path)
    assert audit["absent_originals"] == [absent]
    folds = audit["folds"]
    assert isinstance(folds, dict)
    assert sum(sum(labels.values()) for labels in folds.values()) == 79


def test_the_audit_finds_a_family_in_two_folds() -> None:
    splits = pd.DataFrame(
        {
            "video": ["r", "f", "s"],
            "original": [None, "r", None],
            "label": ["REAL", "FAKE", "REAL"],
            "group": ["f", "f", "s"],
            "fold": [0, 1, 2],
        }
    )
    assert audit_splits(splits, {"r", "f", "s"})["straddling_families"] == ["r"]


def test_fewer_families_than_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"split\.folds: 5 folds need as many families.* has 4"):
        split(dfdc_like(4, 30), tmp_path)


families = st.lists(
    st.tuples(st.booleans(), st.integers(0, 5)).filter(lambda family: family[0] or family[1]),
    min_size=1,
    max_size=25,
)


@given(families=families, folds=st.integers(3, 6), seed=st.integers(0, 3))
def test_no_family_straddles_and_every_video_has_one_fold(
    families: list[tuple[bool, int]], folds: int, seed: int
) -> None:
    rows = []
    for number, (has_original, fakes) in enumerate(families):
        name = f"r{number}"
        rows += [(name, "REAL", None)] * has_original
        rows += [(f"f{number}_{i}", "FAKE", name) for i in range(fakes)]
    videos = pd.DataFrame(rows, columns=["video", "label", "original"])
    videos["group"] = group_videos(videos)
    assigned = assign_folds(videos, folds, seed)
    assert set(assigned) == set(videos["group"])
    assert set(assigned.values()) <= set(range(folds))
    assert len(set(assigned.values())) == min(folds, len(assigned))
    fold = videos["group"].map(assigned)
    family = videos["original"].fillna(videos["video"])
    assert (fold.groupby(family).nunique() == 1).all()


@pytest.mark.parametrize("folds", [3, 5, 7])
def test_each_video_reports_once_selects_once_and_trains_otherwise(folds: int) -> None:
    for fold_of_video in range(folds):
        roles = [role_of(fold_of_video, fold, folds) for fold in range(folds)]
        assert roles.count(Role.REPORT) == roles.count(Role.SELECT) == 1
        assert roles.count(Role.TRAIN) == folds - 2
        assert roles[fold_of_video] == Role.REPORT


def test_roles_of_a_fold_are_disjoint_and_complete(tmp_path: Path) -> None:
    splits, _ = split(dfdc_like(), tmp_path)
    roles = with_roles(splits, 4, 5)
    by_fold = roles.groupby("fold")["role"].unique().map(list).to_dict()
    train = [Role.TRAIN]
    assert by_fold == {0: [Role.SELECT], 1: train, 2: train, 3: train, 4: [Role.REPORT]}
    assert len(roles) == len(splits)


@pytest.mark.parametrize(("fold", "role"), [(2, "report"), (1, "select")])
def test_a_role_without_a_label_is_refused(fold: int, role: str) -> None:
    splits = pd.DataFrame(
        {"label": ["REAL", "FAKE"] * 3, "fold": [0, 0, 1, 1, 2, 2]}, index=range(6)
    )
    with_roles(splits, fold, 3)
    with pytest.raises(UnmaskError, match=f"fold {fold}: no REAL video to {role} on; .*now 3"):
        with_roles(splits.drop(4), fold, 3)


@pytest.mark.parametrize(
    "families", [{"FAKE": 103, "REAL": 100}, {"FAKE": 7, "REAL": 50}, {"FAKE": 50, "REAL": 7}]
)
def test_videos_without_a_family_are_dealt_by_both_labels(families: dict[str, int]) -> None:
    labels = [label for label, count in families.items() for _ in range(count)]
    videos = pd.DataFrame({"group": [f"{i:03}" for i in range(len(labels))], "label": labels})
    videos["fold"] = videos["group"].map(assign_folds(videos, 5, seed=1))
    counts = videos.groupby(["fold", "label"]).size().unstack(fill_value=0)
    assert (counts.max() - counts.min()).max() <= 1
