"""A sample depends on seed, epoch and row alone, and has the target of its video."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from unmask.config import Augment, TrainingConfig
from unmask.errors import UnmaskError
from unmask.faces.images import resize_crop
from unmask.tables import FACES, PROBE, read_table
from unmask.training.augmentation import create_augmentation
from unmask.training.backbones import ModelInput
from unmask.training.dataset import (
    FaceDataset,
    create_score_loader,
    create_train_loader,
    labelled_faces,
    loader_workers,
    treat_label_noise,
)
from unmask.training.sampler import SampleId

INPUT = ModelInput("any", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CONFIG = TrainingConfig(batch_size=4, batches="balanced")


@pytest.fixture
def faces(worked_part: Path) -> pd.DataFrame:
    index = read_table(worked_part / "faces/part-00.parquet", FACES)
    faces = labelled_faces(index, read_table(worked_part / "probe.parquet", PROBE))
    return faces.assign(group=faces["family"])


@pytest.fixture
def shards(worked_part: Path) -> Path:
    return worked_part / "faces"


def batches(
    faces: pd.DataFrame,
    shards: Path,
    config: TrainingConfig = CONFIG,
    *,
    seed: int = 1,
    epoch: int = 0,
    workers: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    loader = create_train_loader(faces, shards, INPUT, config, seed, workers)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    found = list(loader)
    return torch.cat([one["image"] for one in found]), torch.cat([one["row"] for one in found])


AFTER_THREADS = """
import sys
import cv2
import numpy as np
import pandas as pd
from pathlib import Path
from unmask.training.backbones import ModelInput
from unmask.training.dataset import create_score_loader

cv2.setNumThreads(4)
cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (999, 999))
loader = create_score_loader(
    pd.read_pickle(sys.argv[1]), Path(sys.argv[2]), ModelInput("any", 32, (0.5,) * 3, (0.5,) * 3),
    batch_size=5, workers=1,
)
print(sum(len(batch["row"]) for batch in loader))
"""


def test_workers_start_though_opencv_had_threads(
    faces: pd.DataFrame, shards: Path, tmp_path: Path
) -> None:
    """A worker forked from a process with OpenCV threads would wait for them forever."""
    faces.to_pickle(tmp_path / "faces.pickle")
    command = [sys.executable, "-c", AFTER_THREADS, tmp_path / "faces.pickle", shards]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["16"], done.stderr


def test_a_process_exits_while_it_holds_workers(
    faces: pd.DataFrame, shards: Path, tmp_path: Path
) -> None:
    """Hold the loop, as the traceback of an error does."""
    faces.to_pickle(tmp_path / "faces.pickle")
    held = "sys.held = iter(loader)\nnext(sys.held)\nsys.exit('an error')"
    command = [sys.executable, "-c", AFTER_THREADS + held, tmp_path / "faces.pickle", shards]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == "an error\n"


def test_each_crop_has_the_label_of_its_video(faces: pd.DataFrame, shards: Path) -> None:
    assert len(faces) == 16
    fake = faces["video"].isin(["c.mp4", "d.mp4"])
    assert FaceDataset(faces, shards, INPUT).targets.tolist() == fake.astype(float).tolist()


def test_crops_of_videos_outside_the_split_are_left_out(worked_part: Path) -> None:
    index = read_table(worked_part / "faces/part-00.parquet", FACES)
    splits = pd.DataFrame({"part": ["part"], "video": ["a.mp4"], "label": ["REAL"], "fold": [3]})
    found = labelled_faces(index, splits)
    assert set(found["video"]) == {"a.mp4"}
    assert found[["label", "fold"]].drop_duplicates().values.tolist() == [["REAL", 3]]


def test_samples_are_the_same_with_any_number_of_workers(faces: pd.DataFrame, shards: Path) -> None:
    images, rows = batches(faces, shards)
    assert (images.shape, images.dtype) == ((16, 3, 32, 32), torch.uint8)
    for workers in (1, 2):
        other_images, other_rows = batches(faces, shards, workers=workers)
        assert torch.equal(rows, other_rows)
        assert torch.equal(images, other_images)


def test_another_epoch_or_seed_shows_other_samples(faces: pd.DataFrame, shards: Path) -> None:
    images, rows = batches(faces, shards)
    for seed, epoch in [(1, 1), (2, 0)]:
        other_images, other_rows = batches(faces, shards, seed=seed, epoch=epoch)
        assert not torch.equal(rows, other_rows)
        assert not torch.equal(images[rows.argsort()], other_images[other_rows.argsort()])


def test_without_augmentation_a_crop_is_the_stored_one(faces: pd.DataFrame, shards: Path) -> None:
    config = TrainingConfig(batch_size=4, batches="plain", augment="none")
    plain, rows = batches(faces, shards, config)
    scored = torch.cat(
        [one["image"] for one in create_score_loader(faces, shards, INPUT, 5, workers=0)]
    )
    assert torch.equal(plain, scored[rows])


@pytest.mark.parametrize("workers", [0, 1])
def test_scoring_takes_every_row_once_in_order(
    workers: int, faces: pd.DataFrame, shards: Path
) -> None:
    loader = create_score_loader(faces, shards, INPUT, 5, workers)
    rows = torch.cat([one["row"] for one in loader])
    assert rows.tolist() == list(range(16))


def test_a_damaged_crop_is_named(faces: pd.DataFrame, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "faces")
    row = faces.iloc[3]
    with (tmp_path / "faces/part-00.tar").open("r+b") as file:
        file.seek(row["offset"])
        file.write(b"\0" * 64)
    dataset = FaceDataset(faces, tmp_path / "faces", INPUT)
    assert dataset[SampleId(0, 2)].rows == [2]
    with pytest.raises(UnmaskError, match=f"{row['key']} of part-00.tar: not a readable JPEG"):
        dataset[SampleId(0, 3)]


def test_a_job_of_one_thread_has_no_workers_and_larger_ones_some() -> None:
    assert loader_workers(1) == 0
    for threads in (2, 3, 8, 16):
        assert 1 <= loader_workers(threads) < threads


@pytest.fixture
def twins(faces: pd.DataFrame) -> pd.DataFrame:
    """The same faces as if every fake had taken over its original's tracks."""
    square = ["crop_x0", "crop_y0", "crop_side"]
    return faces.assign(**faces.loc[0, square])


@pytest.mark.parametrize(
    "augment",
    ["winner", [{"VideoCodec": {"p": 0.5}}, {"preset": "winner"}, {"PairMixup": {"p": 1}}]],
    ids=["winner", "mixup"],
)
@pytest.mark.parametrize("kind", ["paired", "self_blended"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_pairs_are_neighbours_with_any_number_of_workers(
    kind: str, augment: Augment, twins: pd.DataFrame, shards: Path
) -> None:
    config = TrainingConfig(batch_size=4, batches=kind, augment=augment)
    found = list(create_train_loader(twins, shards, INPUT, config, 1, workers=0))
    rows = torch.cat([one["row"] for one in found]).reshape(-1, 2)
    labels = torch.cat([one["label"] for one in found]).reshape(-1, 2)
    video = twins["video"].to_numpy()
    for (real, fake), targets in zip(rows.tolist(), labels.tolist(), strict=True):
        if kind == "paired":
            assert (video[real], video[fake]) in [("a.mp4", "c.mp4"), ("b.mp4", "d.mp4")]
        else:
            assert real == fake
        assert sum(targets) == pytest.approx(1)
        assert (targets == [0.0, 1.0]) == (augment == "winner")
    assert len(rows) == 8  # each of the REAL crops
    for workers in (1, 4):
        others = create_train_loader(twins, shards, INPUT, config, 1, workers)
        for one, other in zip(found, others, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("image", "label", "row"))


def test_only_crops_of_one_square_and_moment_are_mixed(twins: pd.DataFrame, shards: Path) -> None:
    fake = twins["label"] == "FAKE"
    later = twins.assign(time=twins["time"] + 0.1 * fake)
    moved = twins.assign(crop_x0=twins["crop_x0"] + 2 * fake)
    augment = [{"PairMixup": {"p": 1}}]
    config = TrainingConfig(batch_size=16, batches="paired", augment=augment)
    for shown, mixed in ((twins, True), (later, False), (moved, False)):
        (batch,) = create_train_loader(shown, shards, INPUT, config, 1, workers=0)
        assert len(batch["label"]) == 16
        assert bool(((batch["label"] > 0) & (batch["label"] < 1)).all()) == mixed


def test_a_fake_and_another_real_crop_are_equally_sharp_and_never_mixed(
    faces: pd.DataFrame, shards: Path
) -> None:
    """The FAKE crops count as cut from 20 pixels, so both have no more detail than that."""
    fake = faces["label"] == "FAKE"
    alone = faces.assign(
        **faces.loc[0, ["crop_x0", "crop_y0", "time"]],
        crop_side=np.where(fake, 20.0, 100.0),
        family=faces["video"],
    )
    config = TrainingConfig(
        batch_size=16, batches={"unpaired": 1}, augment=[{"PairMixup": {"p": 1}}]
    )
    (batch,) = create_train_loader(alone, shards, INPUT, config, 1, workers=0)
    assert batch["label"].tolist() == [0, 1] * 8
    dataset = FaceDataset(alone, shards, INPUT)
    for picture, row in zip(batch["image"], batch["row"].tolist(), strict=True):
        stored = dataset.picture(row)
        coarse = INPUT.resize(resize_crop(resize_crop(stored, 20), len(stored)))
        np.testing.assert_array_equal(picture.permute(1, 2, 0), coarse)


@pytest.mark.parametrize("preset", ["basic", "sbi", "strong", "winner"])
def test_what_a_crop_is_next_to_does_not_change_its_parameters(
    preset: str, faces: pd.DataFrame, shards: Path
) -> None:
    augmentation = create_augmentation(preset, INPUT)
    dataset = FaceDataset(faces, shards, INPUT, augmentation)
    pictures, crops = dataset._stored([0, 9])
    for seed in range(30):
        together = augmentation(pictures, crops, seed).pictures
        alone = [
            augmentation([one], [crop], seed) for one, crop in zip(pictures, crops, strict=True)
        ]
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one, other.pictures[0])


def test_a_sequence_stays_within_its_track(faces: pd.DataFrame, shards: Path) -> None:
    """Each video has four crops; the ends of a track are repeated."""
    dataset = FaceDataset(faces, shards, INPUT)
    assert dataset._around(5, 2).tolist() == [4, 4, 5, 6, 7]
    assert dataset._around(0, 1).tolist() == [0, 0, 1]
    assert dataset._around(15, 3).tolist() == [12, 13, 14, 15, 15, 15, 15]


def test_a_crop_that_ends_early_is_refused(faces: pd.DataFrame, shards: Path) -> None:
    """OpenCV would fill the missing half with grey without an error."""
    faces.loc[3, "size"] //= 2
    with pytest.raises(UnmaskError, match="not a readable JPEG"):
        FaceDataset(faces, shards, INPUT)[SampleId(0, 3)]


@pytest.fixture
def noise() -> pd.DataFrame:
    rows = [("c.mp4", 0, "uncertain"), ("d.mp4", 0, "unswapped"), ("a.mp4", 0, "uncertain")]
    return pd.DataFrame(rows, columns=["video", "track", "verdict"]).assign(part="part")


@pytest.mark.parametrize(
    ("policy", "targets"),
    [
        ("keep", {"a.mp4": 0, "b.mp4": 0, "c.mp4": 1, "d.mp4": 1}),
        ("drop", {"a.mp4": 0, "b.mp4": 0}),
        ("soft", {"a.mp4": 0, "b.mp4": 0, "c.mp4": 0.75, "d.mp4": 0}),
    ],
)
def test_label_noise_is_dropped_softened_or_kept(
    policy: str, targets: dict[str, float], faces: pd.DataFrame, noise: pd.DataFrame, shards: Path
) -> None:
    treated = treat_label_noise(faces, noise, policy, 0.75)  # type: ignore[arg-type]
    assert treated.groupby("video")["target"].unique().map(list).to_dict() == {
        video: [target] for video, target in targets.items()
    }
    assert len(treated) == 4 * len(targets)
    dataset = FaceDataset(treated.reset_index(drop=True), shards, INPUT)
    assert dataset.targets.tolist() == treated["target"].tolist()


@pytest.mark.parametrize("verdict", ["altered", "unknown"])
@pytest.mark.parametrize("policy", ["drop", "soft"])
def test_faces_without_a_doubtful_verdict_are_kept(
    policy: str, verdict: str, faces: pd.DataFrame, noise: pd.DataFrame
) -> None:
    for said in (noise.assign(verdict=verdict), noise.iloc[:0], noise.assign(track=1)):
        treated = treat_label_noise(faces, said, policy, 0.5)  # type: ignore[arg-type]
        assert treated["target"].tolist() == (faces["label"] == "FAKE").astype(float).tolist()


def test_an_unswapped_face_is_drawn_like_a_real_one(
    faces: pd.DataFrame, noise: pd.DataFrame, shards: Path
) -> None:
    """12 of 16 crops count as REAL; a balanced epoch shows 4 of them and the 4 uncertain ones."""
    treated = treat_label_noise(faces, noise, "soft", 0.5)
    loader = create_train_loader(treated, shards, INPUT, CONFIG, 1, workers=0)
    labels = torch.cat([batch["label"] for batch in loader])
    assert sorted(labels.tolist()) == [0.0] * 4 + [0.5] * 4
