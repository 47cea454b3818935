"""What torch makes of pictures on their grids, run with the toolchain's interpreter.

python pictures_oracle.py PAGES OUT

PAGES is an npz of uint8 arrays (height, width, 3). OUT gets, under the same names, what the second
half of Hugging Face's Phi3VImageProcessor makes of them: the small view and the crops, float32
(1 + crops, 3, 336, 336).
"""

# mypy: disable-error-code="import-not-found"
# (the imports are the toolchain's)

import sys
from typing import Any


def processed(page: Any) -> Any:
    import torch

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    image = torch.from_numpy(page).permute(2, 0, 1).float() / 255  # torchvision's ToTensor
    image = (image - mean) / deviation
    small = torch.nn.functional.interpolate(image[None], size=(336, 336), mode="bicubic")
    h, w = image.shape[1] // 336, image.shape[2] // 336
    crops = image.reshape(1, 3, h, 336, w, 336).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 336, 336)
    return torch.cat([small, crops]).numpy()


def main() -> None:
    import numpy as np

    pages = np.load(sys.argv[1])
    np.savez(sys.argv[2], **{name: processed(pages[name]) for name in pages.files})


if __name__ == "__main__":
    main()
