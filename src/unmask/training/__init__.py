"""Training: backbones, crops as tensors, the LightningModule and the fit itself."""

import os

# Importing albumentations asks the internet for a newer version, and waits where there is none.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
