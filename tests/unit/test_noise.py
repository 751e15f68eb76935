"""A FAKE face is told from one that only looks FAKE by its label."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from clips import encode_video
from stages import crop_parts
from unmask.audits.label_noise import (
    MIN_CHANGED_SHARE,
    aligned_pair,
    audit_shard,
    compare_crops,
    match_original,
    with_verdicts,
)
from unmask.audits.label_noise_report import choose_pairs, draw_pairs, report_labels
from unmask.config import Config, FramesConfig
from unmask.faces.shards import ShardReader
from unmask.tables import CROPPED, FACES, NOISE, PROBE, SPLITS, read_rows, read_table, write_table
from unmask.videos.ledger import write_ledger
from unmask.vocabulary import Verdict

Picture = NDArray[np.uint8]
Row = dict[str, Any]
SIZE = (480, 180)
CONFIG = Config(frames=FramesConfig(per_video=8))


def swap_left(picture: Picture) -> Picture:
    """Mirror the left person's face, about where `draw_people` puts it."""
    changed = picture.copy()
    changed[50:130, 80:160] = picture[50:130, 80:160][:, ::-1]
    return changed


def encode(path: Path, crf: int = 18, **options: Any) -> Path:
    encoder = {"crf": str(crf), "preset": "veryfast", "x264-params": "threads=1"}
    return encode_video(path, SIZE, 24, 24, encoder=encoder, **options)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, make_part: Callable[..., Path]) -> Path:
    """A part of two people and one, its faces, and what the audit says of them."""
    root = tmp_path_factory.mktemp("noise")
    entries = {"two.mp4": "REAL", "one.mp4": "REAL"}
    fakes = {"left.mp4": "two.mp4", "sound.mp4": "two.mp4", "harsh.mp4": "two.mp4"}
    fakes |= {"copy.mp4": "one.mp4", "orphan.mp4": "gone.mp4", "cut.mp4": "one.mp4"}
    part = make_part(root / "part", entries | fakes)
    encode(part / "two.mp4", people=2)
    encode(part / "left.mp4", crf=28, people=2, change=swap_left)
    encode(part / "sound.mp4", crf=28, people=2)
    encode(part / "harsh.mp4", crf=36, people=2)
    encode_video(part / "one.mp4")
    encode_video(part / "copy.mp4", encoder={"crf": "30", "preset": "veryfast"})
    encode_video(part / "orphan.mp4")
    encode_video(part / "cut.mp4", size=(144, 120))
    crop_parts([part], root, CONFIG, shard="faces/part-00.tar")
    audit(root, root, indices=[root / "faces/part-00.parquet"])
    return root


def audit(root: Path, *parts: Path, indices: list[Path]) -> None:
    """Audit the last shard; write `videos.parquet` and `noise.parquet`.

    Args:
        root: folder to write into, with the shards in `faces/`.
        parts: folders with the tables of each part.
        indices: face indices of all shards.
    """
    probes, cropped = ([one / f"{name}.parquet" for one in parts] for name in ("probe", "cropped"))
    ledger = root / "videos.parquet"
    write_ledger(probes, cropped, ledger, root / "ledger.json")
    audit_shard(ledger, indices[-1], indices, root / "faces", root / "noise.parquet")


@pytest.fixture(scope="module")
def rows(audited: Path) -> list[Row]:
    return read_rows(audited / "noise.parquet", NOISE)


def verdicts(rows: list[Row], video: str) -> list[str]:
    return [row["verdict"] for row in rows if row["video"] == video]


def test_only_fake_videos_are_judged_and_every_track_of_them(
    rows: list[Row], audited: Path
) -> None:
    tracks = {
        row["video"]: row["tracks"] for row in read_rows(audited / "cropped.parquet", CROPPED)
    }
    judged = {name: len(verdicts(rows, name)) for name in {row["video"] for row in rows}}
    assert judged == {k: n for k, n in tracks.items() if k not in ("one.mp4", "two.mp4")}
    assert tracks["two.mp4"] == tracks["left.mp4"] == 2


def test_of_two_people_exactly_the_swapped_one_is_altered(rows: list[Row], audited: Path) -> None:
    faces = read_rows(audited / "faces/part-00.parquet", FACES)
    found = {row["track"]: row["verdict"] for row in rows if row["video"] == "left.mp4"}
    for track, verdict in found.items():
        of_track = [f for f in faces if f["video"] == "left.mp4" and f["track"] == track]
        is_left = np.mean([face["x0"] + face["x1"] for face in of_track]) / 2 < SIZE[0] / 2
        assert verdict == (Verdict.ALTERED if is_left else Verdict.UNSWAPPED)
    assert len(found) == 2


@pytest.mark.parametrize("video", ["sound.mp4", "harsh.mp4", "copy.mp4"])
def test_a_video_that_was_only_encoded_again_is_uncertain(rows: list[Row], video: str) -> None:
    assert set(verdicts(rows, video)) == {Verdict.UNCERTAIN}
    # The sampled frames of two encodings need not all be the same ones.
    assert all(row["frames"] >= 4 for row in rows if row["video"] == video)


def test_the_original_may_be_in_another_part_and_shard(
    audited: Path, rows: list[Row], make_part: Callable[..., Path], tmp_path: Path
) -> None:
    """Also where it is named without its extension, and where both parts have a fake of a name."""
    part = make_part(tmp_path / "other", {"left.mp4": "two"})
    shutil.copy(audited / "part/sound.mp4", part / "left.mp4")
    crop_parts([part], tmp_path, CONFIG, shard="faces/other-00.tar")
    for path in (audited / "faces").iterdir():
        shutil.copy(path, tmp_path / "faces")
    indices = [tmp_path / f"faces/{name}-00.parquet" for name in ("part", "other")]
    audit(tmp_path, audited, tmp_path, indices=indices)
    noise = read_table(tmp_path / "noise.parquet", NOISE)
    assert set(noise["original_part"] + "/" + noise["original"]) == {"part/two.mp4"}
    assert list(noise["verdict"]) == verdicts(rows, "sound.mp4")
    assert len(draw_pairs(choose_pairs(noise), indices, tmp_path / "faces").axes) == 3 * len(noise)


@pytest.mark.parametrize("video", ["orphan.mp4", "cut.mp4"])
def test_without_a_comparable_original_nothing_is_known(rows: list[Row], video: str) -> None:
    assert verdicts(rows, video) == [Verdict.UNKNOWN]
    assert [row["changed"] for row in rows if row["video"] == video] == [None]


def test_crops_of_other_squares_are_aligned(audited: Path) -> None:
    """Two crops of one picture from different squares must agree where they overlap."""
    faces = read_rows(audited / "faces/part-00.parquet", FACES)
    reader = ShardReader(audited / "faces")
    by_video = {f["video"]: f for f in faces if f["frame"] == 0}
    fake, real = by_video["copy.mp4"], by_video["one.mp4"]
    assert compare_crops(fake, real, reader)[0] < MIN_CHANGED_SHARE
    # Pretend that the original's crop shows another square: what it then shows is elsewhere.
    moved = real | {"crop_x0": real["crop_x0"] + real["crop_side"] / 8}
    assert compare_crops(fake, moved, reader)[0] > MIN_CHANGED_SHARE
    ours, theirs = aligned_pair(fake, moved, reader)
    shift = len(ours) // 8
    unmoved = aligned_pair(fake, real, reader)[1]
    difference = np.abs(theirs[:, shift:].astype(int) - unmoved[:, :-shift].astype(int))
    assert difference.mean() < 1


def face(time: float, x: float = 0.0, side: float = 100.0, track: int = 0) -> Row:
    return {"time": time, "crop_x0": x, "crop_y0": 0.0, "crop_side": side, "track": track}


def test_tracks_are_matched_by_place_at_equal_times() -> None:
    faces = [face(0.0, 200), face(1.0, 200), face(2.03, 200)]
    tracks = {
        0: [face(time, 0) for time in (0.0, 1.0, 2.0)],
        1: [face(time, 210, track=1) for time in (0.0, 1.0, 2.0)],
    }
    pairs = match_original(faces, tracks, fps=25)
    assert [(a["time"], b["time"], b["track"]) for a, b in pairs] == [(0, 0, 1), (1, 1, 1)]
    assert not match_original([face(0.0, 400)], tracks, fps=25)
    assert not match_original([face(0.5, 200)], tracks, fps=None)
    assert not match_original(faces, {}, fps=25)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ([(8, 0.3)], ["altered"]),
        ([(1, 0.3)], ["altered"]),
        ([(8, 0.0)], ["uncertain"]),
        ([(3, 0.0)], ["unknown"]),
        ([(0, None)], ["unknown"]),
        ([(8, 0.3), (8, 0.0)], ["altered", "unswapped"]),
        ([(8, 0.0), (0, None)], ["uncertain", "unknown"]),
        ([(8, 0.0), (8, 0.0)], ["uncertain", "uncertain"]),
    ],
)
def test_verdicts(figures: list[tuple[int, float | None]], expected: list[str]) -> None:
    tracks = [{"frames": frames, "changed": changed} for frames, changed in figures]
    assert [row["verdict"] for row in with_verdicts(tracks)] == expected


def test_the_report_counts_what_each_policy_does_to_training(audited: Path, tmp_path: Path) -> None:
    probe = read_table(audited / "probe.parquet", PROBE)
    splits = probe.assign(group=probe["family"], fold=(probe["family"] == "one.mp4") * 1)
    write_table(splits, SPLITS, audited / "splits.parquet")
    index = audited / "faces/part-00.parquet"
    by_policy = {}
    shards, paths = audited / "faces", (audited / "noise.parquet", audited / "splits.parquet")
    for policy in ("drop", "soft", "keep"):
        config = Config.model_validate({"split": {"folds": 3}, "audits": {"label_noise": policy}})
        report_labels([paths[0]], [index], shards, paths[1], config, tmp_path)
        by_policy[policy] = json.loads((tmp_path / "label_noise.json").read_text())
    counts = by_policy["drop"]["verdicts"]
    assert counts["altered"] == {"videos": 1, "tracks": 1, "faces": 8}
    assert counts["unswapped"] == {"videos": 1, "tracks": 1, "faces": 8}
    assert counts["uncertain"] == {"videos": 3, "tracks": 5, "faces": 40}
    assert counts["unknown"] == {"videos": 2, "tracks": 2, "faces": 16}
    # Family two.mp4 lies in fold 0 and trains for fold 1 only; one.mp4 in fold 1, for fold 2.
    for policy, key in (("drop", "dropped"), ("soft", "softened")):
        folds = by_policy[policy]["training_faces_by_fold"]
        assert {fold: row[key] for fold, row in folds.items()} == {"0": 0, "1": 40, "2": 8}
    kept = by_policy["keep"]["training_faces_by_fold"]
    assert all(row["dropped"] == row["softened"] == 0 for row in kept.values())
    assert (tmp_path / "label_noise.svg").is_file()
    assert (tmp_path / "pairs.png").is_file()


def test_pairs_to_show_hold_every_verdict_and_many_families() -> None:
    number = np.arange(40)
    tracks = pd.DataFrame(
        {
            "part": "p",
            "video": [f"{one:02d}.mp4" for one in number],
            "track": 0,
            "original": [f"o{one % 12}.mp4" for one in number],
            "original_part": "p",
            "frames": 8,
            "changed": number / 40,
            "verdict": np.where(number < 4, "uncertain", "altered"),
        }
    )
    shown = choose_pairs(tracks)
    assert len(shown) == 8
    assert shown["verdict"].value_counts().to_dict() == {"altered": 6, "uncertain": 2}
    assert shown.loc[shown["verdict"] == "altered", "original"].is_unique
    assert choose_pairs(tracks.iloc[:0]).empty
    assert len(choose_pairs(tracks.iloc[:1])) == 1
