"""The miniature challenge: a few dozen clips in the layout of the DeepFake Detection Challenge.

DFDC is 470 GB behind a login, so neither the demo nor the tests can start from it. This module
writes a challenge of a few megabytes that goes the same way through every stage: two parts of H.264
clips with B-frames and a ``metadata.json``, and a balanced test set of people whom training never
shows.

    root/train/dfdc_train_part_{0,1}/   *.mp4, metadata.json
    root/test/                          test_videos/*.mp4, sample_submission.csv, labels.csv
    root/demo.json                      the summary

The people are variants of the one portrait that ships inside scikit-image, so no network is needed:
a smooth random warp moves the features (and with them the identity that a face recogniser sees);
skin, hair and clothes are recoloured. A FAKE is its original's take, frame by frame, with the face
of somebody else put in the way real swaps are: generated at a low resolution, its colours only
partly corrected, blended through a soft mask, trembling a little against the head. The clips of a
family share frame rate, length and encoder settings; only the face gives a FAKE away.

Real data is never clean, and a workflow is judged by what it does then: seven entries are odd on
purpose (`Oddity`), among them a truncated file, an absent one and a clip stored rotated.
"""

import json
import string
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage import data

from unmask.errors import UnmaskError
from unmask.vocabulary import Label

Image = NDArray[Any]
"""A picture or a mask; OpenCV's stubs promise no dtype, the docstrings do."""

VERSION = 1
"""Version of the generator: raise it whenever the bytes it writes change."""

Oddity = Literal[
    "audio_track",  # a REAL clip with sound; the others have none
    "rotated",  # stored lying on its side, upright when shown (display matrix)
    "truncated",  # a REAL clip without its end, where mp4 keeps the index; its FAKE is intact
    "no_face",  # a REAL clip of a background
    "missing",  # in metadata.json, but no such file
    "empty_file",  # a FAKE of zero bytes
    "original_missing",  # an intact FAKE whose original is named nowhere else
]

_PEOPLE_PER_PART = 5
_TEST_PEOPLE = 4
_FAKES_PER_ORIGINAL = (1, 2, 3)
_FRAME_SIZES = ((320, 240), (400, 300), (480, 360))  # width, height
_FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
_PORTRAIT: Callable[[], Image] = data.astronaut
_BACKGROUNDS: tuple[Callable[[], Image], ...] = (
    data.brick,
    data.grass,
    data.gravel,
    data.coffee,
    data.rocket,
)

# Outlines on `data.astronaut()`, in pixels (x, y), traced by hand.
_PORTRAIT_SIZE = 400  # the top left square: head and shoulders, without the helmet in her arm
_FACE_CENTRE = (223, 125)
_FACE_HEIGHT = 92
_BUST = (
    *((20, 400), (24, 350), (40, 290), (62, 250), (112, 222), (112, 190), (130, 165), (150, 151)),
    *((184, 148), (183, 134), (172, 128), (165, 117), (156, 103), (153, 88), (156, 66), (164, 50)),
    *((178, 32), (205, 18), (235, 14), (264, 20), (286, 42), (300, 72), (302, 98), (288, 122)),
    *((274, 134), (268, 140), (262, 155), (257, 167), (280, 188), (300, 228), (340, 265)),
    *((358, 300), (364, 345), (362, 400)),
)
_HAIR = (
    *((165, 122), (140, 88), (160, 30), (235, 0), (290, 20), (320, 98), (290, 130), (274, 124)),
    *((270, 112), (262, 95), (250, 87), (228, 82), (205, 84), (188, 92), (180, 104), (174, 120)),
)
_SKIN = (
    *((174, 120), (180, 104), (188, 92), (205, 84), (228, 82), (250, 87), (262, 95), (270, 112)),
    *((274, 124), (272, 134), (264, 150), (256, 168), (254, 188), (220, 190), (186, 180)),
    *((185, 160), (180, 135), (172, 130)),
)
_FACE = (
    *((180, 108), (183, 132), (191, 152), (203, 168), (219, 177), (238, 170), (254, 153)),
    *((264, 132), (268, 110), (258, 92), (240, 86), (215, 84), (194, 90)),
)
_FEATURES = ((200, 102), (247, 102), (220, 143))  # eyes, mouth

# How far the people differ: shifts of a point, in pixels. Beyond 8 the faces look like masks, below
# 6 SFace takes nearly all of them for one person.
_WARP_STD = 7

# How good the swaps are. Each FAKE draws its own strengths, uniformly.
_SWAP_HEIGHT = (36, 50)  # pixels from chin to brow at which the face was generated
_COLOUR_RESIDUE = (0.25, 0.65)  # share of the colour difference left uncorrected
_FEATHER = (2, 5)  # blur of the blending mask's edge, pixels of the portrait
_JITTER = (0.3, 1.2)  # standard deviation of the trembling, pixels of the frame


@dataclass(frozen=True)
class DemoSummary:
    """What `build_demo` wrote.

    Attributes:
        root: Folder of the challenge.
        seed: Seed that it was built from.
        version: Version of the generator that built it.
        parts: Names of the training parts, folders below ``root/train``.
        videos: Number of training entries, i.e. in both ``metadata.json``, odd ones included.
        real: How many of them are REAL.
        fake: How many of them are FAKE.
        test_videos: Number of unlabelled test clips.
        odd: File name of each odd training entry to what is odd about it.
        people: File name of each clip to the people in it: whoever was filmed and, in a FAKE,
            whose face was put in. DFDC does not tell; here it can check an audit.
    """

    root: Path
    seed: int
    version: int
    parts: list[str]
    videos: int
    real: int
    fake: int
    test_videos: int
    odd: dict[str, Oddity]
    people: dict[str, list[str]]

    def describe(self) -> str:
        """Return the summary in two lines for a terminal."""
        odd = ", ".join(f"{name} ({oddity})" for name, oddity in self.odd.items())
        return (
            f"{self.root}: {self.videos} training videos ({self.real} REAL, {self.fake} FAKE) in "
            f"{len(self.parts)} parts, {self.test_videos} test videos\n"
            f"odd on purpose: {odd}"
        )


@dataclass(frozen=True)
class Person:
    """A portrait to animate.

    Attributes:
        name: Who it is.
        portrait: (400, 400, 3) uint8, RGB.
        alpha: (400, 400) float32, 1 on head and shoulders, 0 beside them.
        face: (13, 2) float32, outline of the face in the portrait, in pixels (x, y).
        features: (3, 2) float32, eyes and mouth, likewise.
    """

    name: str
    portrait: Image
    alpha: Image
    face: NDArray[np.float32]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Take:
    """One recording: all that a REAL clip and its FAKEs have in common.

    Attributes:
        frames: (frames, height, width, 3) uint8, RGB, as the camera saw them.
        portrait_to_frame: (frames, 2, 3) float64, affine matrices: the head's motion.
        exposure: (frames,) float64, gain of each frame.
        fps: Frames per second.
        crf: x264's constant rate factor.
    """

    frames: Image
    portrait_to_frame: NDArray[np.float64]
    exposure: NDArray[np.float64]
    fps: Fraction
    crf: int


@dataclass
class _Clips:
    """The entries of one folder of clips, collected while they are written."""

    folder: Path
    rng: np.random.Generator
    metadata: dict[str, dict[str, str | None]] = field(default_factory=dict)
    people: dict[str, list[str]] = field(default_factory=dict)
    odd: dict[str, Oddity] = field(default_factory=dict)

    def register(
        self, people: list[Person], original: str | None = None, odd: Oddity | None = None
    ) -> Path:
        """Notes an entry, a FAKE if it has an original, and returns the path to write it to."""
        name = _draw_name(self.rng)
        label = Label.REAL if original is None else Label.FAKE
        self.metadata[name] = {"label": label, "split": "train", "original": original}
        self.people[name] = [person.name for person in people]
        if odd is not None:
            self.odd[name] = odd
        return self.folder / name


def build_demo(root: Path, seed: int = 0) -> DemoSummary:
    """Writes the miniature challenge, unless it is already there.

    The same seed gives the same bytes. The challenge appears under its name only when it is
    complete.

    Args:
        root: Folder to create. It may exist if it is empty or holds the same build.
        seed: Seed of everything that is random.

    Returns:
        What the folder holds.

    Raises:
        UnmaskError: If `root` holds anything else, which is left as it is.
    """
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        return _read_summary(root, seed)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        challenge = Path(scratch, root.name)
        summary = _write_challenge(challenge, seed)
        contents = {key: value for key, value in asdict(summary).items() if key != "root"}
        (challenge / "demo.json").write_text(json.dumps(contents, indent=2) + "\n")
        challenge.rename(root)
    return replace(summary, root=root)


def _read_summary(root: Path, seed: int) -> DemoSummary:
    try:
        summary = DemoSummary(root, **json.loads((root / "demo.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise UnmaskError(
            f"{root}: exists and is not a miniature challenge; choose another folder"
        ) from None
    if (summary.seed, summary.version) != (seed, VERSION):
        raise UnmaskError(
            f"{root}: holds the miniature challenge of seed {summary.seed}, version "
            f"{summary.version}, not seed {seed}, version {VERSION}; remove it or choose another"
        )
    return summary


def _write_challenge(root: Path, seed: int) -> DemoSummary:
    rng = np.random.default_rng(seed)
    parts = []
    for index, write_odd_clips in enumerate((_write_odd_clips, _write_broken_clips)):
        part = _Clips(root / "train" / f"dfdc_train_part_{index}", rng)
        part.folder.mkdir(parents=True)
        cast = [_create_person(f"train_{index}_{i}", rng) for i in range(_PEOPLE_PER_PART)]
        _write_families(part, cast)
        write_odd_clips(part, cast)
        metadata = json.dumps(part.metadata, sort_keys=True, indent=0)
        (part.folder / "metadata.json").write_text(metadata + "\n")
        parts.append(part)
    test = _write_test_set(root / "test", rng)

    labels = [entry["label"] for part in parts for entry in part.metadata.values()]
    return DemoSummary(
        root=root,
        seed=seed,
        version=VERSION,
        parts=[part.folder.name for part in parts],
        videos=len(labels),
        real=labels.count(Label.REAL),
        fake=labels.count(Label.FAKE),
        test_videos=len(test.people),
        odd=parts[0].odd | parts[1].odd,
        people=parts[0].people | parts[1].people | test.people,
    )


def _write_families(part: _Clips, cast: list[Person]) -> None:
    """Writes one or two takes of each person, and of each take the REAL clip and its FAKEs."""
    fakes_per_original = cycle(_FAKES_PER_ORIGINAL)
    for index, person in enumerate(cast):
        for _ in range(1 + index % 2):
            take = _film(person, part.rng)
            original = part.register([person])
            _write_video(original, take.frames, take)
            for donor in _draw_donors(person, cast, next(fakes_per_original), part.rng):
                fake = part.register([person, donor], original.name)
                _write_video(fake, _swap_face(take, person, donor, part.rng), take)


def _write_odd_clips(part: _Clips, cast: list[Person]) -> None:
    """Writes the odd clips of the first part: three REAL ones, and a FAKE of the broken one."""
    with_audio, rotated, truncated, donor = cast[:4]

    take = _film(with_audio, part.rng)
    _write_video(part.register([with_audio], odd="audio_track"), take.frames, take, part.rng)

    take = _film(rotated, part.rng, (240, 320))
    _write_video(part.register([rotated], odd="rotated"), take.frames, take, rotation=-90)

    take = _film(truncated, part.rng)
    original = part.register([truncated], odd="truncated")
    _write_video(original, take.frames, take)
    original.write_bytes(original.read_bytes()[: original.stat().st_size // 2])
    fake = part.register([truncated, donor], original.name)
    _write_video(fake, _swap_face(take, truncated, donor, part.rng), take)


def _write_broken_clips(part: _Clips, cast: list[Person]) -> None:
    """Writes the odd clips of the second part: a REAL one and three FAKEs, two without a file."""
    person, donor = cast[:2]
    intact = next(name for name, people in part.people.items() if people == [person.name])

    take = _film(None, part.rng)
    _write_video(part.register([], odd="no_face"), take.frames, take)

    part.register([person, donor], intact, odd="missing")
    part.register([person, donor], intact, odd="empty_file").touch()

    take = _film(person, part.rng)
    fake = part.register([person, donor], _draw_name(part.rng), odd="original_missing")
    _write_video(fake, _swap_face(take, person, donor, part.rng), take)


def _write_test_set(folder: Path, rng: np.random.Generator) -> _Clips:
    """Writes a REAL clip of each test person and, of another take, a FAKE."""
    test = _Clips(folder / "test_videos", rng)
    test.folder.mkdir(parents=True)
    cast = [_create_person(f"test_{i}", rng) for i in range(_TEST_PEOPLE)]
    for person in cast:
        take = _film(person, rng)
        _write_video(test.register([person]), take.frames, take)
        take = _film(person, rng)
        (donor,) = _draw_donors(person, cast, 1, rng)
        fake = test.register([person, donor], _draw_name(rng))
        _write_video(fake, _swap_face(take, person, donor, rng), take)

    names = sorted(test.metadata)
    submission = [f"{name},0.5" for name in names]
    labels = [f"{name},{int(test.metadata[name]['label'] == Label.FAKE)}" for name in names]
    for file, rows in (("sample_submission.csv", submission), ("labels.csv", labels)):
        (folder / file).write_text("\n".join(["filename,label", *rows]) + "\n")
    return test


def _draw_name(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(string.ascii_lowercase), 10)) + ".mp4"


def _draw_donors(
    person: Person, cast: list[Person], count: int, rng: np.random.Generator
) -> list[Person]:
    others = [other for other in cast if other is not person]
    return [others[i] for i in rng.permutation(len(others))[:count]]


def _create_person(name: str, rng: np.random.Generator) -> Person:
    """Makes another person of the portrait: recoloured, lit from a side, warped, maybe mirrored."""
    size = _PORTRAIT_SIZE
    image = _PORTRAIT()[:size, :size].astype(np.float32) / 255

    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))  # the orange suit
    hue, saturation = (hue + rng.uniform(0, 360)) % 360, saturation * rng.uniform(0.2, 1)
    clothes = cv2.merge([hue, saturation, value])
    image_clothes = cv2.cvtColor(clothes, cv2.COLOR_HSV2RGB) ** rng.uniform(0.7, 1.6)
    image_skin = image ** rng.uniform(0.8, 2.0) * rng.uniform((0.9, 0.85, 0.8), (1, 1, 1))
    image_hair = image ** rng.uniform(0.8, 1.6) * rng.uniform(0.4, 1) * rng.uniform(0.9, 1.1, 3)
    skin, hair = _fill(_SKIN, 2)[..., None], _fill(_HAIR, 2)[..., None]
    image = image_clothes + hair * (image_hair - image_clothes)
    image = image + skin * (image_skin - image)
    light = 1 + rng.uniform(-0.35, 0.35) * np.linspace(-1, 1, size)[None, :, None]

    portrait = (np.clip(image * light, 0, 1) * 255).astype(np.uint8)
    alpha = np.clip(2 * _fill(_BUST, 2) - 1, 0, 1)  # feathered inwards only

    # A grid of random shifts, interpolated to pixels: out(x) = portrait(x + shift(x)).
    shifts = np.clip(rng.normal(0, _WARP_STD, (8, 8, 2)), -1.6 * _WARP_STD, 1.6 * _WARP_STD)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    source = np.stack([x, y], 2) + cv2.resize(shifts, (size, size), interpolation=cv2.INTER_CUBIC)
    features = _FEATURES
    if rng.random() < 0.5:
        source[..., 0] = size - 1 - source[..., 0]
        features = (_FEATURES[1], _FEATURES[0], _FEATURES[2])  # the eyes change sides
    map_x, map_y = cv2.split(source.astype(np.float32))
    return Person(
        name=name,
        portrait=cv2.remap(portrait, map_x, map_y, cv2.INTER_LINEAR),
        alpha=cv2.remap(alpha, map_x, map_y, cv2.INTER_LINEAR),
        face=_locate(_FACE, source),
        features=_locate(features, source),
    )


def _fill(outline: ArrayLike, feather: float) -> Image:
    """Draws a polygon on the portrait's canvas, 1 inside, its edge blurred by `feather` pixels."""
    mask = np.zeros((_PORTRAIT_SIZE, _PORTRAIT_SIZE), np.float32)
    cv2.fillPoly(mask, [np.asarray(outline).round().astype(np.int32)], 1)
    return cv2.GaussianBlur(mask, (0, 0), feather)


def _locate(points: tuple[tuple[int, int], ...], source: Image) -> NDArray[np.float32]:
    """Finds where the warp that reads pixel `source[y, x]` takes points of the portrait."""
    distances = [np.linalg.norm(source - point, axis=2) for point in points]
    y, x = np.unravel_index([distance.argmin() for distance in distances], source.shape[:2])
    return np.stack([x, y], 1).astype(np.float32)


def _film(
    person: Person | None, rng: np.random.Generator, size: tuple[int, int] | None = None
) -> Take:
    """Records a person, or nobody, in front of a background.

    Args:
        person: Who moves before the camera.
        rng: Source of the motion, the light, the noise and the settings of the camera.
        size: Width and height in pixels; drawn from the usual ones if None.
    """
    width, height = size or _FRAME_SIZES[rng.integers(len(_FRAME_SIZES))]
    fps = _FRAME_RATES[rng.integers(len(_FRAME_RATES))]
    seconds = np.arange(round(rng.uniform(2.0, 2.4) * fps)) / float(fps)

    scale = min(width, height) / 240 * rng.uniform(0.85, 1.0) * (1 + _drift(seconds, 0.04, rng))
    angle = rng.uniform(-6, 6) + _drift(seconds, 5, rng)
    centre_x = width * (rng.uniform(0.42, 0.58) + _drift(seconds, 0.05, rng))
    centre_y = height * (rng.uniform(0.46, 0.5) + _drift(seconds, 0.03, rng))
    turns = zip(angle, scale, strict=True)
    motion: Image = np.stack([cv2.getRotationMatrix2D(_FACE_CENTRE, *turn) for turn in turns])
    motion[:, :, 2] += np.stack([centre_x, centre_y], 1) - _FACE_CENTRE
    exposure = 1 + _drift(seconds, 0.04, rng)

    background = _draw_background(width, height, rng)
    if person is not None:  # a lens slightly out of focus: not all that is soft is FAKE
        portrait = cv2.GaussianBlur(person.portrait, (0, 0), rng.uniform(0.3, 0.7))
    # Sensor noise, fresh in each frame: a window somewhere on one large field is as good as new.
    noise: Image = rng.normal(0, rng.uniform(2, 5), (height + 64, width + 64))
    noise = cv2.merge([cv2.GaussianBlur(noise, (0, 0), 0.6)] * 3)
    frames = np.empty((len(seconds), height, width, 3), np.uint8)
    for frame, matrix, gain in zip(frames, motion, exposure, strict=True):
        scene = background
        if person is not None:
            scene = _paste(background, portrait, person.alpha, matrix)
        top, left = rng.integers(64, size=2)
        grain = noise[top : top + height, left : left + width]
        cv2.addWeighted(scene, gain, grain, 1, 0, dst=frame, dtype=cv2.CV_8U)
    return Take(frames, motion, exposure, fps, crf=int(rng.integers(20, 29)))


def _drift(
    seconds: NDArray[np.float64], amplitude: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draws a slow random motion within about plus or minus `amplitude`."""
    frequency, phase = (
        rng.uniform(((0.1,), (0.4,)), ((0.4,), (0.7,))),
        rng.uniform(0, 2 * np.pi, (2, 1)),
    )
    waves: NDArray[np.float64] = np.sin(2 * np.pi * frequency * seconds + phase)
    drift: NDArray[np.float64] = amplitude * waves.mean(axis=0)
    return drift


def _paste(
    scene: Image,
    picture: Image,
    alpha: Image,
    matrix: NDArray[np.float64],
) -> Image:
    """Puts a transparent picture, moved by an affine matrix, over a scene."""
    size = scene.shape[1::-1]
    moved, opacity = cv2.warpAffine(picture, matrix, size), cv2.warpAffine(alpha, matrix, size)
    return cv2.blendLinear(scene, moved, 1 - opacity, opacity)


def _draw_background(width: int, height: int, rng: np.random.Generator) -> Image:
    """Cuts a piece from a photograph, tints it and puts it out of focus."""
    photograph = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]()
    if photograph.ndim == 2:
        photograph = cv2.cvtColor(photograph, cv2.COLOR_GRAY2RGB)
    top, left = rng.integers(np.array(photograph.shape[:2]) // 3)
    piece: Image = photograph[top:, left:].astype(np.float32)
    piece = cv2.resize(piece, (width, height), interpolation=cv2.INTER_AREA)
    piece = cv2.GaussianBlur(piece, (0, 0), rng.uniform(1.5, 5))
    mean = piece.mean((0, 1))
    contrast, tint = rng.uniform(0.3, 0.8), rng.uniform(0.7, 1.2, 3)
    piece = np.clip((mean + contrast * (piece - mean)) * tint, 0, 255)
    return piece.astype(np.uint8)


def _swap_face(take: Take, person: Person, donor: Person, rng: np.random.Generator) -> Image:
    """Puts the donor's face into a take of a person, as a face-swapping network would.

    Returns:
        (frames, height, width, 3) uint8, RGB; outside the face the frames of `take`.
    """
    size = (_PORTRAIT_SIZE, _PORTRAIT_SIZE)
    fit = cv2.getAffineTransform(donor.features, person.features)
    face = cv2.warpAffine(donor.portrait, fit, size)
    feather = rng.uniform(*_FEATHER)
    mask = _fill(person.face, feather) * _fill(cv2.transform(donor.face[None], fit)[0], feather)

    # Networks of the time generated faces 64 to 256 pixels wide, whatever the size of the video.
    shrink = rng.uniform(*_SWAP_HEIGHT) / _FACE_HEIGHT
    face = cv2.resize(face, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    face = cv2.resize(face, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)

    # Colour transfer after Reinhard et al. 2001 (here in RGB), a part of which is left undone.
    inside = mask > 0.5
    old, new = person.portrait[inside], face[inside]
    matched = (face - new.mean(0)) * (old.std(0) / new.std(0)) + old.mean(0)
    face = matched + rng.uniform(*_COLOUR_RESIDUE) * (face - matched)
    face = np.clip(face, 0, 255).astype(np.uint8)

    jitter = rng.normal(0, rng.uniform(*_JITTER), (len(take.frames), 2))
    fake = np.empty_like(take.frames)
    for index, (matrix, gain) in enumerate(zip(take.portrait_to_frame, take.exposure, strict=True)):
        exposed = cv2.convertScaleAbs(face, alpha=gain)
        trembling = np.column_stack([matrix[:, :2], matrix[:, 2] + jitter[index]])
        fake[index] = _paste(take.frames[index], exposed, mask, trembling)
    return fake


def _write_video(
    path: Path,
    frames: Image,
    take: Take,
    sound: np.random.Generator | None = None,
    rotation: int = 0,
) -> None:
    """Encodes a clip with the settings of its take.

    Args:
        path: File to write, an mp4.
        frames: (frames, height, width, 3) uint8, RGB, upright.
        take: Where the frame rate and the quality come from.
        sound: If given, the clip gets a sound track, drawn from it.
        rotation: Degrees that a player is to turn the stored picture counter-clockwise to show it
            upright, a multiple of 90.
    """
    stored = np.rot90(frames, -rotation // 90, axes=(1, 2))
    # x264's assembly gives other bytes from run to run, unless told to be independent of the CPU.
    # `bitexact` keeps date and version out of the container.
    with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
        options = {"crf": str(take.crf), "preset": "veryfast", "threads": "1"}
        options["x264-params"] = "cpu-independent=1"
        video = container.add_stream("libx264", rate=take.fps, options=options)
        video.height, video.width = stored.shape[1:3]
        video.pix_fmt = "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for image in stored:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            for block in _babble(len(frames) / float(take.fps), sound):
                container.mux(audio.encode(block))
            container.mux(audio.encode())


def _babble(seconds: float, rng: np.random.Generator) -> Iterator[av.AudioFrame]:
    """Yields mono sound at 44.1 kHz: noise that swells four times a second, like syllables."""
    time = np.arange(int(seconds * 44100)) / 44100
    samples = 0.1 * rng.normal(size=len(time)) * np.sin(4 * np.pi * time) ** 2
    for start in range(0, len(samples), 1024):
        block = samples[None, start : start + 1024].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, start
        yield frame
