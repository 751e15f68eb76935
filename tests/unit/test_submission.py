"""A bundle predicts every test video, without internet and without what Kaggle lacks."""

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from records import write_bundle
from unmask.config import EvaluationConfig, FacesConfig, FramesConfig
from unmask.errors import UnmaskError
from unmask.faces.crops import Crop
from unmask.faces.shards import ShardReader
from unmask.inference import detector
from unmask.inference.calibrate import Calibration
from unmask.inference.predictor import (
    MANIFEST,
    Bundle,
    Member,
    choose_device,
    join_crops,
    load_bundle,
    load_members,
    member_logits,
    predict_videos,
    read_bundle,
)
from unmask.inference.prepare import prepare_video
from unmask.inference.scoring_head import ScoringHead
from unmask.kaggle import submission
from unmask.kaggle.submission import (
    fewer_frames,
    main,
    parse_duration,
    predict,
    read_sample,
)
from unmask.tables import FACES, read_table
from unmask.training.backbones import ModelInput
from unmask.training.dataset import FaceDataset
from unmask.training.sampler import SampleId
from unmask.vocabulary import Status

MakeVideo = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def challenge(make_video: MakeVideo, tmp_path: Path) -> Path:
    videos = tmp_path / "test_videos"
    make_video(videos / "person.mp4", frames=8)
    make_video(videos / "nobody.mp4", frames=8, people=0)
    (videos / "broken.mp4").write_bytes(b"not a video")
    make_video(tmp_path / "outside.mp4", frames=8)
    names = ["person.mp4", "nobody.mp4", "broken.mp4", "absent.mp4", "../outside.mp4", "person.mp4"]
    rows = "\n".join(f"{name},0.5" for name in names)
    (tmp_path / "sample_submission.csv").write_text(f"filename,label\n{rows}\n")
    return tmp_path


def probabilities(path: Path) -> dict[str, float]:
    with path.open() as file:
        return {row["filename"]: float(row["label"]) for row in csv.DictReader(file)}


def run(bundle: Path, challenge: Path, **options: Any) -> dict[str, float]:
    videos, sample = challenge / "test_videos", challenge / "sample_submission.csv"
    predict(bundle, videos, sample, challenge / "submission.csv", 1, **options)
    return probabilities(challenge / "submission.csv")


def videos_of(loaded: Bundle, videos: list[list[Crop]]) -> list[float | None]:
    return [one and one.video for one in predict_videos(loaded, videos)]


def crops_of(loaded: Bundle, clip: Path) -> list[Crop]:
    prepared = prepare_video(clip.parent, clip.name, loaded.config.frames, loaded.config.faces)
    assert (bool(prepared.crops), prepared.reason) == (True, "")
    return prepared.crops


def test_every_video_of_the_sample_is_predicted_once(
    bundle: Path, challenge: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copyfile(challenge / "outside.mp4", challenge / "test_videos/another.mp4")
    found = run(bundle, challenge)
    assert list(found) == ["person.mp4", "nobody.mp4", "broken.mp4", "absent.mp4", "../outside.mp4"]
    assert found.pop("person.mp4") != 0.5
    assert set(found.values()) == {0.5}  # kaggle.prior
    assert len((challenge / "submission.csv").read_text().splitlines()) == 6
    assert "sample_submission.csv: names some videos more than once" in caplog.text
    assert "1 videos are not in the sample" in caplog.text
    assert "another.mp4" in caplog.text


def test_a_probability_is_the_calibrated_aggregate_at_the_prior_of_the_test_set(
    bundle: Path, challenge: Path
) -> None:
    loaded = load_bundle(bundle)
    crops = crops_of(loaded, challenge / "test_videos/person.mp4")
    mean = member_logits(loaded.members[0], join_crops([crops]), loaded.device).mean()
    calibrated = 1.5 * (mean + 1.0 - logit(0.8)) + 0.4 + logit(0.5)
    assert videos_of(loaded, [crops]) == [pytest.approx(expit(calibrated))]


def test_flip_predicts_the_mean_of_a_crop_and_its_mirror_image(
    bundle: Path, challenge: Path
) -> None:
    loaded = load_bundle(bundle)
    crops = join_crops([crops_of(loaded, challenge / "test_videos/person.mp4")])
    mirrored = replace(crops, pictures=[picture[:, ::-1] for picture in crops.pictures])
    (member,), device = loaded.members, loaded.device
    once, again = (member_logits(member, one, device) for one in (crops, mirrored))
    assert np.abs(once - again).max() > 1e-3
    manifest, config = read_bundle(bundle)
    flip = config.model_copy(update={"evaluation": EvaluationConfig(flip=True)})
    (averaging,) = load_members(bundle, manifest, flip, device).members
    np.testing.assert_allclose(
        member_logits(averaging, crops, device), (once + again) / 2, atol=1e-4
    )


@pytest.mark.parametrize("margin", [None, 0.1])
def test_the_model_sees_the_same_of_a_face_in_scoring_and_in_prediction(
    margin: float | None, worked_part: Path, faces_config: FacesConfig
) -> None:
    model_input = ModelInput("any", 48, (0.5,) * 3, (0.5,) * 3, margin=margin)
    index = read_table(worked_part / "faces/part-00.parquet", FACES)
    scored = FaceDataset(index.assign(label="REAL"), worked_part / "faces", model_input)
    prepared = prepare_video(worked_part / "part", "a.mp4", FramesConfig(per_video=4), faces_config)
    crops = join_crops([prepared.crops])
    assert len(crops.pictures) == 4
    for row, (picture, box) in enumerate(zip(crops.pictures, crops.boxes, strict=True)):
        predicted = model_input.prepare(picture, box)
        np.testing.assert_array_equal(predicted, scored[SampleId(0, row)].pictures[0])
        assert np.array_equal(predicted, model_input.resize(picture)) == (margin is None)


def test_videos_of_a_batch_do_not_affect_each_other(
    bundle: Path, challenge: Path, make_video: MakeVideo
) -> None:
    loaded = load_bundle(bundle)
    make_video(challenge / "other.mp4", (480, 180), frames=8)
    one, other = (
        crops_of(loaded, challenge / name) for name in ("test_videos/person.mp4", "other.mp4")
    )
    two_tracks = [*other, *(replace(crop, track=1) for crop in one)]
    alone = [videos_of(loaded, [crops])[0] for crops in (two_tracks, one)]
    first, nothing, second = videos_of(loaded, [two_tracks, [], one])
    assert nothing is None
    assert [first, second] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("name", ["a.mp4", "b.mp4"])
def test_a_video_is_cropped_for_kaggle_as_for_training_byte_for_byte(
    name: str, bundle: Path, worked_part: Path
) -> None:
    index = read_table(worked_part / "faces/part-00.parquet", FACES)
    rows = index[index["video"] == name]
    shard = ShardReader(worked_part / "faces")
    trained = [shard.read(row.shard, row.offset, row.size) for row in rows.itertuples()]
    config = load_bundle(bundle).config
    frames = config.frames.model_copy(update={"per_video": 4})
    prepared = prepare_video(worked_part / "part", name, frames, config.faces)
    assert len(trained) == 4
    assert [crop.jpeg for crop in prepared.crops] == trained


def constant(intercept: float) -> ScoringHead:
    return ScoringHead("mean_logit", Calibration(0.0, intercept, 0.5))


def test_members_are_averaged_in_log_odds(bundle: Path, challenge: Path) -> None:
    loaded = load_bundle(bundle)
    (member,) = loaded.members
    crops = crops_of(loaded, challenge / "test_videos/person.mp4")

    def predicted(weights: dict[float, float]) -> float:
        members = [
            Member(member.network, member.input, 0.0, constant(intercept), weight)
            for intercept, weight in weights.items()
        ]
        (found,) = videos_of(Bundle(loaded.config, members, loaded.device), [crops])
        assert found is not None
        return found

    assert predicted({2.0: 1.0}) == pytest.approx(expit(2.0))
    assert predicted({2.0: 0.2, -1.0: 0.2, 5.0: 0.2}) == pytest.approx(expit(2.0))
    assert predicted({2.0: 0.75, -2.0: 0.25}) == pytest.approx(expit(1.0))


def test_a_damaged_file_is_named(bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    weights = damaged / "fold0.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UnmaskError, match=r"fold0\.safetensors: sha256"):
        load_bundle(damaged)
    weights.unlink()
    with pytest.raises(UnmaskError, match=r"fold0\.safetensors: named in manifest\.json"):
        load_bundle(damaged)
    (damaged / MANIFEST).write_text("{")
    with pytest.raises(UnmaskError, match=r"damaged: .*manifest\.json"):
        load_bundle(damaged)


def options(bundle: Path, challenge: Path) -> list[str]:
    given = {"bundle": bundle, "videos": challenge / "test_videos", "log": challenge / "log"}
    given |= {"sample": challenge / "sample_submission.csv", "out": challenge / "submission.csv"}
    return ["--threads=2", *(f"--{name}={path}" for name, path in given.items())]


def test_a_damaged_bundle_is_one_line_and_no_submission(
    challenge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, output = challenge / "log", challenge / "submission.csv"
    assert main(options(challenge, challenge)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert "manifest.json" in log.read_text()
    assert not output.exists()


def test_a_folder_without_any_video_of_the_sample_is_one_line_and_no_submission(
    bundle: Path, challenge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*options(bundle, challenge), f"--videos={challenge}"]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), f"{challenge}: " in error) == (1, True)
    assert not (challenge / "submission.csv").exists()


def test_a_sample_without_file_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    for text in ("id,label\na.mp4,0.5\n", "", "filename,label\n"):
        path.write_text(text)
        with pytest.raises(UnmaskError, match=r"sample\.csv: .*'filename'"):
            read_sample(path)
    with pytest.raises(UnmaskError, match=r"absent\.csv: cannot be read"):
        read_sample(tmp_path / "absent.csv")


def test_a_submission_is_clipped_and_read_back(tmp_path: Path) -> None:
    names = ["b.mp4", "a,1.mp4", "c.mp4"]
    written = submission.Submission(names, 0.5, 0.01, tmp_path / "submission.csv")
    written.set("b.mp4", 0.001)
    written.set("c.mp4", 0.999)
    written.write()
    expected = {"b.mp4": 0.01, "a,1.mp4": 0.5, "c.mp4": 0.99}
    assert probabilities(tmp_path / "submission.csv") == expected
    lines = (tmp_path / "submission.csv").read_bytes().splitlines(keepends=True)
    assert lines[:2] == [b"filename,label\n", b"b.mp4,0.010000\n"]


def test_prediction_needs_nothing_that_kaggle_lacks() -> None:
    absent = ["snakemake", "mlflow", "pytorch_lightning", "lightning", "albumentations", "pyarrow"]
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); import unmask.kaggle.submission"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_on_an_unusable_gpu_the_cpu_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def launch(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution\non the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", launch)
    assert choose_device() == torch.device("cpu")
    assert "no kernel image" in caplog.text


def test_durations_are_read() -> None:
    texts = ("8.5h", "30m", "2 min", "90s", "90")
    assert [parse_duration(text) for text in texts] == [30_600.0, 1800.0, 120.0, 90.0, 90.0]
    for text in ("", "h", "-1h", "0h", "nine hours"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"8\.5h"):
            parse_duration(text)


def test_a_share_of_the_frames_is_sampled() -> None:
    assert fewer_frames(FramesConfig(per_video=32), 0.25).per_video == 8
    assert fewer_frames(FramesConfig(rate=4.0), 0.25).rate == 1.0


def hang(videos: Path, name: str, *_: Any) -> submission.Prepared:
    """Stand for a decoder that never returns from one video."""
    while name == "person.mp4":
        time.sleep(1)
    return submission.Prepared([], Status.NO_FACE, "no face")


def test_a_video_that_hangs_costs_its_own_prediction_alone(
    bundle: Path, challenge: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(submission, "prepare_video", hang)
    assert set(run(bundle, challenge, deadline_s=100).values()) == {0.5}
    assert "person.mp4: not done in 1 s" in caplog.text


def test_at_the_deadline_the_submission_is_written(
    bundle: Path, challenge: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(submission, "prepare_video", hang)
    monkeypatch.setattr(submission, "_LONGEST_SHARE", 100)
    began = time.monotonic()
    assert len(run(bundle, challenge, deadline_s=3)) == 5
    assert time.monotonic() - began < 8
    assert "ended by SIGALRM" in caplog.text


def swallow_the_signal(*_: Any) -> None:
    """Stand for a library that is interrupted by SIGTERM and raises another error."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    except BaseException:
        raise RuntimeError("could not determine the shape") from None


@pytest.mark.parametrize("where", ["load_members", "predict_videos"])
def test_a_signal_that_a_library_swallows_is_not_lost(
    where: str,
    bundle: Path,
    challenge: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(detector, where, swallow_the_signal)
    with pytest.raises(SystemExit) as ended:
        run(bundle, challenge)
    assert ended.value.code == 128 + signal.SIGTERM
    assert "ended by SIGTERM" in caplog.text
    assert set(probabilities(challenge / "submission.csv").values()) == {0.5}


def start(bundle: Path, challenge: Path) -> "subprocess.Popen[bytes]":
    code = "import sys; from unmask.kaggle.submission import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, *options(bundle, challenge)])


@pytest.fixture
def twenty(make_video: MakeVideo, tmp_path: Path) -> Path:
    """Twenty videos of one person."""
    first = make_video(tmp_path / "test_videos/0.mp4", frames=30)
    for number in range(1, 20):
        shutil.copyfile(first, first.with_name(f"{number}.mp4"))
    names = [f"{number}.mp4" for number in range(20)]
    (tmp_path / "sample_submission.csv").write_text(
        "filename,label\n" + "".join(f"{name},0.5\n" for name in names)
    )
    return tmp_path


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_a_whole_submission(bundle: Path, twenty: Path) -> None:
    """Thirty moments, half of them by SIGTERM, from the first submission to the last."""
    output = twenty / "submission.csv"
    began = time.monotonic()
    assert start(bundle, twenty).wait(120) == 0
    whole, expected = time.monotonic() - began, probabilities(output)
    assert 0.5 not in expected.values()
    for point in range(30):
        output.unlink(missing_ok=True)
        process = start(bundle, twenty)
        until = time.monotonic() + whole * (0.3 + 0.7 * point / 30)
        while process.poll() is None and (time.monotonic() < until or not output.exists()):
            time.sleep(0.005)
        kind = signal.SIGKILL if point % 2 else signal.SIGTERM
        process.send_signal(kind)
        assert process.wait(30) in (0, -kind, 128 + kind)
        found = probabilities(output)
        assert list(found) == list(expected)
        assert all(value in (0.5, expected[name]) for name, value in found.items())
        assert len(output.read_text().splitlines()) == 21
