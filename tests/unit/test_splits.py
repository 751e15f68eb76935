"""No family is in two folds, and folds are balanced."""

import json
import random
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.splits.checks import absent_parts, audit_splits
from unmask.splits.folds import assign_folds, choose_seed, write_splits
from unmask.splits.groups import group_videos
from unmask.splits.roles import role_of, rows_to_fit_on, with_roles
from unmask.tables import SPLITS, VIDEOS, read_table, write_table
from unmask.vocabulary import Role, Status


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
    ledger: pd.DataFrame, folder: Path, folds: int = 5, seed: int | Literal["auto"] = "auto"
) -> tuple[pd.DataFrame, dict[str, object]]:
    write_table(ledger, VIDEOS, folder / "videos.parquet")
    write_splits(
        folder / "videos.parquet",
        [],
        [],
        SplitConfig(folds=folds, seed=seed),
        folder / "splits.parquet",
        folder / "audit.json",
    )
    audit = json.loads((folder / "audit.json").read_text())
    return read_table(folder / "splits.parquet", SPLITS), audit


def test_videos_of_one_family_share_a_group() -> None:
    """Fakes of a fake as well, and those whose original has no row."""
    originals = {"r": None, "f": "r", "g": "f", "alone": None, "x": "gone", "y": "gone"}
    videos = pd.DataFrame({"video": list(originals), "original": list(originals.values())})
    groups = group_videos(videos.assign(part="p").set_index(pd.Index([4, 2, 7, 1, 0, 3])))
    assert groups.drop([0, 3]).to_dict() == {4: "r", 2: "r", 7: "r", 1: "alone"}
    assert groups[0] == groups[3] not in ("r", "alone")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folds_are_even_in_both_labels(seed: int, tmp_path: Path) -> None:
    splits, audit = split(dfdc_like(seed=seed), tmp_path)
    counts = splits.groupby(["fold", "label"]).size().unstack()
    assert len(counts) == 5
    assert counts["FAKE"].min() >= 0.85 * 332 / 5
    assert counts["REAL"].min() >= 0.85 * 68 / 5
    share = counts["FAKE"] / counts.sum(axis=1)
    assert (share - 332 / 400).abs().max() < 0.05
    assert audit["warnings"] == []


def test_a_split_depends_on_the_seed_and_not_on_the_order(tmp_path: Path) -> None:
    ledger = dfdc_like()
    first, _ = split(ledger, tmp_path / "a", seed=1)
    split(ledger.sample(frac=1, random_state=0), tmp_path / "b", seed=1)
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
    assert audit_splits(splits, splits.assign(part="p"))["straddling_families"] == ["r"]


def test_fewer_families_than_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"split\.folds: 5 .* set split\.folds: 4"):
        split(dfdc_like(4, 30), tmp_path)
    with pytest.raises(UnmaskError, match=r"split\.folds: .* there are 2; add videos"):
        split(dfdc_like(2, 30), tmp_path)


def test_a_source_is_in_one_fold_with_the_originals_of_its_fakes(tmp_path: Path) -> None:
    ledger = dfdc_like(120, 240)
    number = ledger["family"].str[1:4].astype(int) % 8
    ledger["source"] = "web" + number.clip(upper=5).astype(str)
    fake = ledger["label"] == "FAKE"
    ledger.loc[fake & (number == 5), "source"] = "copies"  # of web5's originals
    write_table(ledger, VIDEOS, tmp_path / "videos.parquet")
    config = SplitConfig(group_by="source", folds=3)
    paths = [tmp_path / name for name in ("splits.parquet", "audit.json")]
    write_splits(tmp_path / "videos.parquet", [], [], config, *paths)
    splits = read_table(paths[0], SPLITS)
    assert (splits.groupby("source")["fold"].nunique() == 1).all()
    assert splits.loc[splits["source"].isin(["web5", "copies"]), "fold"].nunique() == 1
    assert splits["group"].nunique() == ledger["family"].nunique()
    with pytest.raises(UnmaskError, match=r"split\.folds: 7 folds need as many sources .* are 6"):
        write_splits(
            tmp_path / "videos.parquet", [], [], config.model_copy(update={"folds": 7}), *paths
        )


def test_families_that_the_metadata_give_one_group_share_a_fold(tmp_path: Path) -> None:
    ledger = dfdc_like(40, 160)
    ledger["given_group"] = "id" + (ledger["family"].str[1:4].astype(int) % 10).astype(str)
    ledger.loc[ledger["label"] == "FAKE", "given_group"] = None  # known by their originals
    splits, audit = split(ledger, tmp_path)
    person = splits["family"].str[1:4].astype(int) % 10
    assert (splits.groupby(person)["fold"].nunique() == 1).all()
    assert audit["groups"] == 10


def write_given(ledger: pd.DataFrame, table: pd.DataFrame | None, folder: Path) -> pd.DataFrame:
    """Split a ledger by a table, or by its official split; return the splits."""
    write_table(ledger, VIDEOS, folder / "videos.parquet")
    files = [folder / "split.csv"] if table is not None else []
    if table is not None:
        table.to_csv(files[0], index=False)
    config = SplitConfig(file=str(files[0]) if files else "official")
    paths = [folder / name for name in ("splits.parquet", "audit.json")]
    write_splits(folder / "videos.parquet", [], files, config, *paths)
    return read_table(paths[0], SPLITS)


@pytest.mark.parametrize("has_val", [True, False])
@pytest.mark.parametrize("in_file", [True, False])
def test_a_given_split_decides_the_roles(has_val: bool, in_file: bool, tmp_path: Path) -> None:
    ledger = dfdc_like(60, 240)
    number = ledger["family"].str[1:4].astype(int)
    given = pd.Series("train", ledger.index).mask(number < 12, "test").mask(number >= 58, None)
    given = given.mask((number > 11) & (number < 24), "val") if has_val else given
    table = ledger[["video"]].assign(split=given).dropna() if in_file else None
    splits = write_given(ledger.assign(given_split=None if in_file else given), table, tmp_path)
    roles = splits.merge(ledger[["video"]].assign(given=given), on="video")
    assert len(splits) == given.notna().sum()
    assert ((roles["fold"] == 0) == (roles["given"] == "test")).all()
    if has_val:
        assert ((roles["fold"] == 1) == (roles["given"] == "val")).all()
    else:  # a share of the training videos, in whole families
        validation = roles[roles["fold"] == 1]
        assert set(validation["given"]) == {"train"}
        assert set(validation["label"]) == {"REAL", "FAKE"}
        assert not set(validation["family"]) & set(roles[roles["fold"] > 1]["family"])


def test_a_family_that_a_given_split_divides_is_reported(tmp_path: Path) -> None:
    ledger = dfdc_like(20, 60)
    test = ledger["video"].isin([ledger["original"].mode()[0], "r001.mp4", "f001.mp4"])
    write_given(ledger.assign(given_split=np.where(test, "test", "train")), None, tmp_path)
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert ledger["original"].mode()[0] in audit["straddling_families"]
    assert any("given split divides" in warning for warning in audit["warnings"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("video,split\nr000.mp4,train\n", "split.csv has no test video"),
        ("video,split\nr000.mp4,holdout\n", "'holdout' is none of train"),
        ("video,fold\nr000.mp4,1\n", "no column split"),
        ("video,split\nr000.mp4,train\nr000.mp4,test\n", "r000.mp4 twice"),
    ],
)
def test_a_split_file_that_cannot_be_used_is_named(
    table: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnmaskError) as refused:
        write_given(dfdc_like(20, 60), pd.read_csv(StringIO(table)), tmp_path)
    assert message in str(refused.value)


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
    videos = pd.DataFrame(rows, columns=["video", "label", "original"]).assign(part="p")
    videos["group"] = group_videos(videos)
    assigned = assign_folds(videos, folds, seed)
    assert set(assigned) == set(videos["group"])
    assert set(assigned.values()) <= set(range(folds))
    fold = videos["group"].map(assigned)
    family = videos["original"].fillna(videos["video"])
    assert (fold.groupby(family).nunique() == 1).all()
    assert audit_splits(videos.assign(fold=fold), videos)["straddling_families"] == []


@given(old=families, new=families, seed=st.integers(0, 2**31 - 1), draw=st.randoms())
def test_added_videos_move_no_old_one(
    old: list[tuple[bool, int]],
    new: list[tuple[bool, int]],
    seed: int,
    draw: random.Random,
) -> None:
    def videos_of(families: list[tuple[bool, int]], name: str, first: int) -> list[list[object]]:
        rows: list[list[object]] = []
        for number, (has_original, fakes) in enumerate(families):
            # Some of the new families are more fakes of old ones, or their original.
            original = f"r{number if draw.random() < 0.3 else number + first}"
            rows += [[f"{name}{number}_{i}", "FAKE", original] for i in range(fakes)]
            if has_original:
                rows.append([original, "REAL", None])
        return rows

    before = pd.DataFrame(videos_of(old, "f", 0), columns=["video", "label", "original"])
    added = pd.DataFrame(videos_of(new, "a", 100), columns=["video", "label", "original"])
    before = before.assign(part="p1").drop_duplicates("video")
    after = pd.concat([before, added.assign(part="p0")]).drop_duplicates("video")
    folds = []
    for videos in (before, after.sample(frac=1, random_state=seed % 1000)):
        videos["group"] = group_videos(videos)
        fold = videos["group"].map(assign_folds(videos, 5, seed))
        folds.append(dict(zip(videos["video"], fold, strict=True)))
    assert {video: folds[1][video] for video in folds[0]} == folds[0]


@pytest.mark.parametrize(("groups", "folds"), [(12, 5), (10, 4), (12, 10), (6, 6), (200, 20)])
def test_auto_gives_every_fold_both_labels(groups: int, folds: int) -> None:
    rows = [(f"{group}", label) for group in range(groups) for label in ("REAL", "FAKE", "FAKE")]
    videos = pd.DataFrame(rows, columns=["group", "label"]).assign(part="p")
    fold = videos["group"].map(assign_folds(videos, folds, choose_seed(videos, folds)))
    assert set(zip(fold, videos["label"], strict=True)) == {
        (number, label) for number in range(folds) for label in ("REAL", "FAKE")
    }


def test_auto_names_the_seed_that_keeps_its_folds(tmp_path: Path) -> None:
    ledger = dfdc_like(40, 160)
    auto, audit = split(ledger, tmp_path / "auto")
    assert audit["advice"] == (
        f"set split.seed: {audit['seed']} to keep these folds when videos are added"
    )
    seed = audit["seed"]
    assert isinstance(seed, int)
    more = dfdc_like(50, 200).assign(part="part_1")
    more["video"] = "more" + more["video"]
    more["original"] = "more" + more["original"]
    kept, _ = split(pd.concat([ledger, more]), tmp_path / "kept", seed=seed)
    both = auto.merge(kept, on=["part", "video"])
    assert len(both) == len(ledger)
    assert (both["fold_x"] == both["fold_y"]).all()


@pytest.mark.parametrize("folds", [3, 5, 7])
def test_each_video_is_tested_once_validated_once_and_trained_on_otherwise(folds: int) -> None:
    for fold_of_video in range(folds):
        roles = [role_of(fold_of_video, fold, folds) for fold in range(folds)]
        assert roles.count(Role.TEST) == roles.count(Role.VAL) == 1
        assert roles.count(Role.TRAIN) == folds - 2
        assert roles[fold_of_video] == Role.TEST


def test_roles_of_a_fold_are_disjoint_and_complete(tmp_path: Path) -> None:
    splits, _ = split(dfdc_like(), tmp_path)
    roles = with_roles(splits, 4, 5)
    by_fold = roles.groupby("fold")["role"].unique().map(list).to_dict()
    train = [Role.TRAIN]
    assert by_fold == {0: [Role.VAL], 1: train, 2: train, 3: train, 4: [Role.TEST]}
    assert len(roles) == len(splits)


def test_nothing_can_be_fitted_on_the_test_split(tmp_path: Path) -> None:
    splits, _ = split(dfdc_like(), tmp_path)
    roles = with_roles(splits, 0, 5)
    with pytest.raises(ValueError, match="test split"):
        rows_to_fit_on(roles, Role.TEST)
    chosen_on = pd.concat([rows_to_fit_on(roles, role) for role in (Role.TRAIN, Role.VAL)])
    reported = roles.drop(chosen_on.index)
    assert set(reported["role"]) == {Role.TEST}
    assert not set(reported["group"]) & set(chosen_on["group"])


@pytest.mark.parametrize(("fold", "role"), [(2, "test"), (1, "validation")])
def test_a_role_without_a_video_is_refused(fold: int, role: str) -> None:
    splits = pd.DataFrame({"label": ["REAL", "FAKE"] * 3, "fold": [0, 0, 1, 1, 2, 2]})
    with_roles(splits.drop(4), fold, 3)
    with pytest.raises(UnmaskError, match=f"{role} split of fold {fold}; .*split.folds"):
        with_roles(splits.drop([4, 5]), fold, 3)


def test_a_label_that_no_video_with_a_face_has_is_refused(tmp_path: Path) -> None:
    ledger = dfdc_like(20, 60)
    ledger.loc[ledger["label"] == "REAL", "status"] = Status.NO_FACE
    with pytest.raises(UnmaskError, match="none of 20 REAL videos has a face"):
        split(ledger, tmp_path)
    with pytest.raises(UnmaskError, match="no REAL video, so no model"):
        split(ledger[ledger["label"] == "FAKE"], tmp_path)


def test_a_fold_without_a_label_is_named(tmp_path: Path) -> None:
    ledger = dfdc_like(20, 60)
    few = ledger[(ledger["label"] == "FAKE") | ledger["video"].isin(["r000.mp4", "r001.mp4"])]
    _, audit = split(few, tmp_path)
    warnings = audit["warnings"]
    assert isinstance(warnings, list)
    assert sum("no REAL video with a face" in warning for warning in warnings) == 3
    assert any("11 of 12 originals are absent" in warning for warning in warnings)
    assert any("MOST are absent" in warning for warning in warnings)
    assert sum("only 2 groups have REAL" in warning for warning in warnings) == 3


def test_the_warning_on_a_fold_without_a_label_has_a_remedy(tmp_path: Path) -> None:
    ledger = dfdc_like(20, 60)
    reals = [f"r{number:03}.mp4" for number in range(4)]
    few = ledger[(ledger["label"] == "FAKE") | ledger["video"].isin(reals)]
    _, audit = split(few, tmp_path / "few")
    assert "set split.folds: 4 or add videos" in str(audit["warnings"])
    groups = few.assign(group=few["family"])
    seed = next(
        seed
        for seed in range(100)
        if len({assign_folds(groups, 4, seed)[name] for name in reals}) < 4
    )
    _, audit = split(few, tmp_path / "seed", folds=4, seed=seed)
    assert "set split.seed: auto, lower split.folds" in str(audit["warnings"])


def test_missing_parts_and_parts_without_a_face_are_named(tmp_path: Path) -> None:
    ledger = dfdc_like(30, 120)
    part = np.arange(len(ledger)) % 3
    ledger["part"] = np.array(["train_part_0", "train_part_1", "train_part_3"])[part]
    ledger.loc[part == 1, "status"] = Status.UNREADABLE
    _, audit = split(ledger, tmp_path)
    warnings = audit["warnings"]
    assert isinstance(warnings, list)
    assert "parts missing from the numbering: train_part_2" in warnings
    assert "parts without a single face: train_part_1" in warnings


def test_parts_numbered_by_dates_have_no_gaps() -> None:
    assert absent_parts(["p20200101", "p20200401"]) == []
    assert absent_parts(["train", "test"]) == []
    assert absent_parts(["p0", "p2"]) == ["p1"]
