"""Each track has one unit vector, by which families of one person are joined."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unmask.config import SplitConfig
from unmask.errors import UnmaskError
from unmask.faces.identity import embed_shard
from unmask.faces.images import encode_jpeg
from unmask.faces.shards import write_shard
from unmask.splits.groups import group_by_identity
from unmask.tables import FACES, IDENTITIES, read_table, write_table


def embedded(worked: Path, index: Path, folder: Path) -> pd.DataFrame:
    embed_shard(worked / "faces/part-00.tar", index, folder / "identities.parquet")
    return read_table(folder / "identities.parquet", IDENTITIES)


def test_each_track_has_one_unit_vector(worked_part: Path, tmp_path: Path) -> None:
    index = worked_part / "faces/part-00.parquet"
    identities = embedded(worked_part, index, tmp_path)
    tracks = read_table(index, FACES).drop_duplicates(["part", "video", "track"])
    assert identities["video"].tolist() == tracks["video"].tolist()
    vectors = np.stack(list(identities["embedding"]))
    assert vectors.shape == (len(tracks), 128)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert identities["consistency"].min() > 0.8
    assert identities["detail"].isna().all()
    # The clips show one portrait.
    assert (vectors @ vectors.T).min() > 0.7


def test_landmarks_of_the_index_are_not_needed(worked_part: Path, tmp_path: Path) -> None:
    index = worked_part / "faces/part-00.parquet"
    faces = read_table(index, FACES)
    faces["landmarks"] = [np.full(10, np.nan, np.float32)] * len(faces)
    write_table(faces, FACES, tmp_path / "index.parquet")
    with_landmarks = embedded(worked_part, index, tmp_path)
    without = embedded(worked_part, tmp_path / "index.parquet", tmp_path)
    pd.testing.assert_frame_equal(with_landmarks, without)


def test_a_track_of_no_face_is_a_row_with_a_reason(worked_part: Path, tmp_path: Path) -> None:
    gray = encode_jpeg(np.full((64, 64, 3), 128, np.uint8), 95)
    with write_shard(tmp_path / "part-00.tar") as writer:
        offset = writer.add("gray.jpg", gray)
    faces = read_table(worked_part / "faces/part-00.parquet", FACES).iloc[:1]
    faces = faces.assign(offset=offset, size=len(gray), key="gray")
    write_table(faces, FACES, tmp_path / "index.parquet")
    embed_shard(tmp_path / "part-00.tar", tmp_path / "index.parquet", tmp_path / "out.parquet")
    row = read_table(tmp_path / "out.parquet", IDENTITIES).iloc[0]
    assert row["embedding"] is None
    assert row["detail"] == "no landmarks in 1 crops"


def test_an_empty_shard_gives_an_empty_table(worked_part: Path, tmp_path: Path) -> None:
    faces = read_table(worked_part / "faces/part-00.parquet", FACES).iloc[:0]
    write_table(faces, FACES, tmp_path / "index.parquet")
    assert embedded(worked_part, tmp_path / "index.parquet", tmp_path).empty


def people(of_video: dict[str, list[int]], part: str = "p") -> pd.DataFrame:
    """Make identities of people numbered 0 to 127, whose faces have nothing in common."""
    rows = [
        {
            "part": part,
            "video": video,
            "track": track,
            "detail": None,
            "faces": 4,
            "consistency": 0.9,
            "embedding": np.eye(128, dtype=np.float32)[person],
        }
        for video, persons in of_video.items()
        for track, person in enumerate(persons)
    ]
    return pd.DataFrame(rows)


def clips(originals: dict[str, str | None], part: str = "p") -> pd.DataFrame:
    videos = pd.DataFrame({"video": list(originals), "original": list(originals.values())})
    label = videos["original"].map(lambda one: "FAKE" if isinstance(one, str) else "REAL")
    return videos.assign(part=part, label=label)


def test_families_of_one_person_are_one_group_and_fakes_follow_their_original() -> None:
    videos = clips({"a": None, "b": None, "c": None, "fa": "a", "fc": "c"})
    # fc shows the face of a, and fa that of c: neither joins anything.
    shown = people({"a": [0], "b": [1, 0], "c": [2], "fa": [2], "fc": [0]})
    groups = group_by_identity(videos, shown, SplitConfig(max_group_share=1))
    assert dict(zip(videos["video"], groups, strict=True)) == {
        "a": "a",
        "b": "a",
        "fa": "a",
        "c": "c",
        "fc": "c",
    }


def test_fakes_without_an_original_and_tracks_without_an_embedding_join_nothing() -> None:
    videos = clips({"a": None, "b": None, "f": "gone"})
    shown = people({"a": [0], "b": [0], "f": [0]})
    shown.loc[1, "consistency"] = 0.1
    assert group_by_identity(videos, shown, SplitConfig()).tolist() == ["a", "b", "gone"]
    shown["embedding"] = None
    with pytest.raises(UnmaskError, match=r"split\.group_by: .* set it to original"):
        group_by_identity(videos, shown, SplitConfig())


def test_a_giant_group_is_refused_with_the_threshold_that_splits_it() -> None:
    videos = clips({f"v{i}": None for i in range(10)})
    shown = people({f"v{i}": [i] for i in range(10)})
    # A chain: each face is 0.6 like the next, but for one link of 0.5.
    vectors = np.zeros((10, 128))
    vectors[0, 0] = 1
    for i in range(1, 10):
        cosine = 0.5 if i == 5 else 0.6
        vectors[i] = cosine * vectors[i - 1]
        vectors[i, i] = np.sqrt(1 - cosine**2)
    shown["embedding"] = list(vectors.astype(np.float32))
    with pytest.raises(UnmaskError) as stopped:
        group_by_identity(videos, shown, SplitConfig(max_group_share=0.5))
    assert "10 of 10 videos, more than split.max_group_share (0.5)" in str(stopped.value)
    assert "the lowest threshold that splits it is 0.50" in str(stopped.value)
    threshold = float(str(stopped.value).rpartition(" ")[2])
    config = SplitConfig(max_group_share=0.5, identity_threshold=threshold)
    assert group_by_identity(videos, shown, config).value_counts().tolist() == [5, 5]


def test_parts_that_are_added_in_order_rename_no_group() -> None:
    first = clips({"m": None, "z": None}, "part_2")
    shown = people({"m": [0], "z": [1]}, "part_2")
    config = SplitConfig(max_group_share=1)
    before = group_by_identity(first, shown, config)
    more = clips({"a": None, "b": None}, "part_10")
    both = pd.concat([first, more], ignore_index=True)
    joined = people({"a": [0], "b": [2]}, "part_10")
    after = group_by_identity(both, pd.concat([shown, joined]), config)
    assert after.tolist() == [*before, "m", "b"] == ["m", "z", "m", "b"]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_components_of_all_close_pairs(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small blocks, and a forest that is thinned out again and again.
    monkeypatch.setattr("unmask.splits.groups._BLOCK", 7)
    monkeypatch.setattr("unmask.splits.groups._PENDING", 5)
    rng = np.random.default_rng(seed)
    videos = clips({f"v{i:02}": None for i in range(40)})
    shown = people({f"v{i:02}": [0] for i in range(40)})
    vectors = rng.normal(size=(40, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shown["embedding"] = list(vectors.astype(np.float32))
    config = SplitConfig(max_group_share=1, identity_threshold=0.8)
    groups = group_by_identity(videos, shown, config).to_numpy()
    close = vectors @ vectors.T >= 0.8
    reached = np.linalg.matrix_power(close.astype(float), 40) > 0
    assert ((groups[:, None] == groups[None]) == reached).all()
