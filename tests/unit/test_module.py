"""The LightningModule learns, follows its schedule, and logs the challenge's loss per video."""

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.special import expit
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unmask.config import TrainingConfig
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
    """Keep the learning rate and the loss of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Tensor],
        *_: Any,
    ) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def trainer(watch: Watch, epochs: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
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


@pytest.fixture(scope="module")
def learnt() -> tuple[DeepfakeClassifier, Batch, Watch]:
    pl.seed_everything(0, verbose=False)
    batch = Batch(
        image=torch.randn(8, 3, 32, 32), label=torch.tensor([0.0, 1] * 4), row=torch.arange(8)
    )
    backbone, _ = create_backbone(CONFIG)
    model = DeepfakeClassifier(backbone, AS_IS, CONFIG, 0.0, np.arange(8))
    watch = Watch()
    trainer(watch, 40).fit(model, load(batch, 8), load(batch, 8))
    return model, batch, watch


def test_one_batch_is_learnt_by_heart(learnt: tuple[DeepfakeClassifier, Batch, Watch]) -> None:
    model, batch, watch = learnt
    assert watch.losses[0] > 0.4
    assert watch.losses[-1] < 0.1
    with torch.inference_mode():
        logits = model.train()(batch["image"])
    assert logits.shape == (8,)
    assert ((logits > 0) == (batch["label"] == 1)).all()


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing(
    learnt: tuple[DeepfakeClassifier, Batch, Watch],
) -> None:
    rates = learnt[2].rates
    assert len(rates) == 40
    assert np.argmax(rates) in (9, 10)  # a quarter of the steps
    assert max(rates) == pytest.approx(CONFIG.learning_rate)
    assert rates[0] == pytest.approx(CONFIG.learning_rate / 10)
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] < 0.01 * CONFIG.learning_rate


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
