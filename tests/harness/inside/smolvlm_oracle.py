"""What transformers' own image processor and prompt of SmolVLM make of pictures.

python smolvlm_oracle.py PILLOW PICTURES OUT SIDE ROWS CROPS…

Runs with the toolchain's interpreter, and takes Pillow from the folder PILLOW. PICTURES is an
npz of uint8 arrays (height, width, 3). OUT gets for each name and each number of crops, as `NAME
CROPS`, the views as float32 (views, 3, SIDE, SIDE), and as `NAME CROPS text` what stands for the
picture in a prompt.
"""

# mypy: disable-error-code="import-not-found"
# (the imports are the toolchain's)

import math
import sys
from typing import Any


def main() -> None:
    pillow, pictures, out, side, rows, *crops = sys.argv[1:]
    sys.path.append(pillow)  # behind the toolchain's own packages
    import numpy as np
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    made: dict[str, Any] = {}
    with np.load(pictures) as found:
        for name in found.files:
            for count in crops:
                longest = math.isqrt(int(count)) * int(side)
                processor = SmolVLMImageProcessorPil(
                    size={"longest_edge": longest}, max_image_size={"longest_edge": int(side)}
                )
                seen = processor([[found[name]]], return_tensors="np", return_row_col_info=True)
                made[f"{name} {count}"] = seen["pixel_values"][0].astype(np.float32)
                made[f"{name} {count} text"] = get_image_prompt_string(
                    seen["rows"][0][0], seen["cols"][0][0], int(rows),
                    "<fake_token_around_image>", "<image>", "<global-img>",
                )  # fmt: skip
    np.savez(out, **made)


if __name__ == "__main__":
    main()
