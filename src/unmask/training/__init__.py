"""Training: backbones, crops as tensors, the LightningModule and the fit itself."""
