"""The LightningModule learns, and logs the challenge's loss per video."""

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unmask.config import TrainingConfig
from unmask.errors import UnmaskError
from unmask.training.backbones import ModelInput, create_backbone
from unmask.training.dataset import Batch
from unmask.training.module import DeepfakeClassifier

CONFIG = TrainingConfig(
    backbone="test_resnet",
    weights="none",
    image_size=32,
    batch_size=8,
    learning_rate=3e-3,
    drop_rate=0.0,
    warmup=0.25,
)
# Leaves a picture's values as they are.
AS_IS = ModelInput("any", 32, (0.0,) * 3, (1 / 255,) * 3)


class FirstPixel(nn.Module):
    """A network whose logit is the first pixel times a weight of one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        return image[:, 0, 0, :1] * self.weight


class Watch(pl.Callback):
    """Keep the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Tensor],
        *_: Any,
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def trainer(watch: Watch, epochs: int, precision: Any = "32-true") -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        precision=precision,
        max_epochs=epochs,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def load(batch: Batch, size: int) -> DataLoader[Batch]:
    samples = [
        {"image": image, "label": label, "row": row}
        for image, label, row in zip(batch["image"], batch["label"], batch["row"], strict=True)
    ]
    return DataLoader(samples, batch_size=size)  # type: ignore[arg-type]


pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode")


def test_one_batch_is_learnt_by_heart() -> None:
    pl.seed_everything(0, verbose=False)
    batch = Batch(
        image=torch.randn(8, 3, 32, 32), label=torch.tensor([0.0, 1] * 4), row=torch.arange(8)
    )
    backbone, _ = create_backbone(CONFIG)
    model = DeepfakeClassifier(backbone, AS_IS, CONFIG, 0.0, np.arange(8))
    watch = Watch()
    trainer(watch, 40).fit(model, load(batch, 8), load(batch, 8))
    assert watch.losses[0] > 0.4
    assert watch.losses[-1] < 0.1
    with torch.inference_mode():
        logits = model.train()(batch["image"])
    assert logits.shape == (8,)
    assert ((logits > 0) == (batch["label"] == 1)).all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_diverging_training_says_where_and_what_to_try(precision: str) -> None:
    config = CONFIG.model_copy(
        update={"learning_rate": 1e38, "optimizer": "sgd", "warmup": 0.0, "precision": precision}
    )
    batch = Batch(
        image=torch.randn(8, 3, 32, 32), label=torch.tensor([0.0, 1] * 4), row=torch.arange(8)
    )
    model = DeepfakeClassifier(create_backbone(config)[0], AS_IS, config, 0.0, np.arange(8))
    with pytest.raises(
        UnmaskError, match=r"epoch \d, .* 1e\+38.*training\.learning_rate: "
    ) as error:
        trainer(Watch(), 3, precision).fit(model, load(batch, 2), load(batch, 8))
    assert f"precision {precision}" in str(error.value)
    with pytest.raises(UnmaskError, match="diverged"):
        model.check_weights()


@pytest.mark.parametrize("prior_shift", [0.0, 1.5])
def test_validation_is_the_log_loss_of_videos(prior_shift: float) -> None:
    rng = np.random.default_rng(0)
    video = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
    label = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
    logit = rng.normal(0, 2, 10)
    order = rng.permutation(10)
    image = torch.zeros(10, 3, 2, 2)
    image[:, 0, 0, 0] = torch.from_numpy(logit[order])
    batch = Batch(
        image=image,
        label=torch.from_numpy(label[order]).float(),
        row=torch.from_numpy(order),
    )
    model = DeepfakeClassifier(FirstPixel(), AS_IS, CONFIG, prior_shift, video)
    (logged,) = trainer(Watch(), 1).validate(model, load(batch, 3), verbose=False)
    means = np.array([logit[video == one].mean() for one in range(4)]) + prior_shift
    labels = np.array([0, 1, 1, 0])
    assert logged["val/log_loss"] == pytest.approx(log_loss(labels, expit(means)), rel=1e-5)
    frames = log_loss(label, expit(logit + prior_shift))
    assert logged["val/frame_log_loss"] == pytest.approx(frames, rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx(np.mean((means > 0) == labels))
    assert logged["val/auc"] == pytest.approx(roc_auc_score(labels, means))
    assert logged["val/frame_auc"] == pytest.approx(roc_auc_score(label, logit))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_targets_are_s_and_one_minus_s(smoothing: float) -> None:
    config = CONFIG.model_copy(update={"label_smoothing": smoothing, "learning_rate": 1e-12})
    logit, label = np.array([-1.0, 0.5, 2, 3]), np.array([0, 1, 0, 1])
    image = torch.zeros(4, 3, 2, 2)
    image[:, 0, 0, 0] = torch.from_numpy(logit)
    batch = Batch(image=image, label=torch.from_numpy(label).float(), row=torch.arange(4))
    watch = Watch()
    model = DeepfakeClassifier(FirstPixel(), AS_IS, config, 0.0, np.arange(4))
    trainer(watch, 1).fit(model, load(batch, 4), load(batch, 4))
    target = np.where(label == 1, 1 - smoothing, smoothing)
    expected = -(target * np.log(expit(logit)) + (1 - target) * np.log(expit(-logit))).mean()
    assert watch.losses == [pytest.approx(expected, rel=1e-5)]


class Weights(pl.Callback):
    """Keep a parameter of the backbone after each step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self.seen.append(pl_module.backbone.weight.detach().clone())  # type: ignore[union-attr,operator]


def test_averaged_weights_follow_their_formula_and_are_kept() -> None:
    """a(t) = d a(t-1) + (1 - d) w(t), where d after n steps is at most 1 - n^(-2/3)."""
    config = CONFIG.model_copy(update={"ema": 0.7, "learning_rate": 0.1, "warmup": 0.0})
    batch = Batch(
        image=torch.randn(24, 3, 2, 2), label=torch.tensor([0.0, 1] * 12), row=torch.arange(24)
    )
    model = DeepfakeClassifier(FirstPixel(), AS_IS, config, 0.0, np.arange(24))
    weights = Weights()
    training = trainer(Watch(), 1)
    training.callbacks.append(weights)  # type: ignore[attr-defined]
    training.fit(model, load(batch, 2), load(batch, 24))
    average = weights.seen[0]
    for number, weight in enumerate(weights.seen[1:], start=2):
        decay = min(0.7, 1 - number ** (-2 / 3))
        average = decay * average + (1 - decay) * weight
    assert len(weights.seen) == 12
    kept = model.network.weight  # type: ignore[union-attr]
    torch.testing.assert_close(kept, average)  # type: ignore[arg-type]
    assert not torch.allclose(model.backbone.weight, kept)  # type: ignore[arg-type]
    logits = model(batch["image"])
    torch.testing.assert_close(logits, batch["image"][:, 0, 0, 0] * kept)


@pytest.mark.parametrize(("samples", "decay"), [(40, 0.9), (800, 0.975)])
def test_by_default_the_last_tenth_of_all_steps_is_averaged(samples: int, decay: float) -> None:
    batch = Batch(
        image=torch.zeros(samples, 3, 2, 2),
        label=torch.tensor([0.0, 1] * (samples // 2)),
        row=torch.arange(samples),
    )
    model = DeepfakeClassifier(FirstPixel(), AS_IS, CONFIG, 0.0, np.arange(samples))
    trainer(Watch(), 1).fit(model, load(batch, 2), load(batch, samples))
    assert model.average is not None
    assert model.average.decay == pytest.approx(decay)


def test_bfloat16_learns_what_float32_learns() -> None:
    batch = Batch(
        image=torch.randn(8, 3, 32, 32), label=torch.tensor([0.0, 1] * 4), row=torch.arange(8)
    )
    curves = {}
    for precision in ("32-true", "bf16-mixed"):
        pl.seed_everything(0, verbose=False)
        config = CONFIG.model_copy(update={"precision": precision, "learning_rate": 1e-3})
        backbone, _ = create_backbone(config)
        watch = Watch()
        training = trainer(watch, 15, precision=precision)
        model = DeepfakeClassifier(backbone, AS_IS, config, 0.0, np.arange(8))
        training.fit(model, load(batch, 8), load(batch, 8))
        assert all(one.dtype == torch.float32 for one in backbone.parameters())
        curves[precision] = watch.losses
    np.testing.assert_allclose(curves["bf16-mixed"], curves["32-true"], atol=0.1)
    assert curves["bf16-mixed"] != curves["32-true"]
    assert curves["bf16-mixed"][-1] < 0.7 * curves["bf16-mixed"][0]


def changed_by_training(config: TrainingConfig) -> set[str]:
    """Train two epochs; return the names of the weights and statistics that changed."""
    backbone, _ = create_backbone(config)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    batch = Batch(
        image=torch.randn(8, 3, 32, 32), label=torch.tensor([0.0, 1] * 4), row=torch.arange(8)
    )
    model = DeepfakeClassifier(backbone, AS_IS, config, 0.0, np.arange(8))
    trainer(Watch(), 2).fit(model, load(batch, 8), load(batch, 8))
    after = backbone.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_tuning_norms_leaves_all_other_weights_as_they_are() -> None:
    values = {"backbone": "test_vit", "tune": "norm", "image_size": 32}
    changed = changed_by_training(CONFIG.model_copy(update=values))
    assert changed
    assert all("norm" in name or name.startswith("head.") for name in changed)


def test_tuning_the_head_keeps_the_statistics_of_batch_norms() -> None:
    changed = changed_by_training(CONFIG.model_copy(update={"tune": "head"}))
    assert changed == {"fc.weight", "fc.bias"}
