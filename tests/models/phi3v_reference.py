"""Phi-3.5-vision as torch computes it: transformers' CLIP and Phi3, and the HD transform by loops.

    python phi3v_reference.py CHECKPOINT CASES.npz OUT.npz [--text FOLDER]

Run with the toolchain's interpreter. Nothing of edgekit takes part, nor the repository's code. For
each N in CASES: `ids_N` i64 [tokens], below 0 for a picture's row; `pixels_N` f32 [pictures, views,
3, 336, 336] and `sizes_N` i64 [pictures, 2] where there are pictures; `greedy_N`, the number of
tokens to answer. Without `ids_N` only the features are computed. OUT gets `features_N` [rows,
hidden], `logits_N` [tokens, vocabulary] of all positions of `ids_N`, `tokens_N`, and `margins_N`:
by how much the logit of each token is above the second one. `--text` takes the text part's weights
from the safetensors files of another folder.
"""

# mypy: disable-error-code="import-not-found,misc,untyped-decorator"

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

VISION = "model.vision_embed_tokens."
SIDE, CELLS = 336, 12
_OF_REMOTE_CODE = ("auto_map", "embd_layer", "img_processor", "_attn_implementation", "model_type")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder in float32."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found.update({name: opened.get_tensor(name).float() for name in opened.keys()})  # noqa: SIM118  it is no dict
    return found


class Vision(torch.nn.Module):
    """Pixels of views to rows of the text's width.

    Args:
        tensors: of the checkpoint.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        own = {n.removeprefix(VISION): t for n, t in tensors.items() if n.startswith(VISION)}
        clip = {
            name.removeprefix("img_processor.").removeprefix("vision_model."): tensor
            for name, tensor in own.items()
            if name.startswith("img_processor.") and not name.endswith("position_ids")
        }
        width = clip["embeddings.class_embedding"].shape[0]
        layers = 1 + max(int(n.split(".")[2]) for n in clip if n.startswith("encoder.layers."))
        settings = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=clip["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            image_size=SIDE,
            patch_size=14,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        )
        self.clip = CLIPVisionModel(settings)
        if any(name.startswith("vision_model.") for name in self.clip.state_dict()):
            clip = {f"vision_model.{name}": tensor for name, tensor in clip.items()}
        self.clip.load_state_dict(clip)
        first, second = (own[f"img_projection.{n}.weight"] for n in (0, 2))
        self.projector = torch.nn.Sequential(
            torch.nn.Linear(*first.T.shape), torch.nn.GELU(), torch.nn.Linear(*second.T.shape)
        )
        self.projector.load_state_dict(
            {n.removeprefix("img_projection."): t for n, t in own.items() if "projection" in n}
        )
        self.glb, self.sub = own["glb_GN"].reshape(-1), own["sub_GN"].reshape(-1)
        self.eval()

    def rows(self, states: torch.Tensor, height: int, width: int) -> list[torch.Tensor]:
        """Crops of patches as rows of cells, each row followed by `sub_GN`.

        Args:
            states: [height * width, 576, channels].
            height, width: crops.
        """
        made = []
        for row in range(height * CELLS):
            for column in range(width * CELLS):
                crop = states[row // CELLS * width + column // CELLS].reshape(24, 24, -1)
                top, left = 2 * (row % CELLS), 2 * (column % CELLS)
                four = [crop[top + y, left + x] for y in (0, 1) for x in (0, 1)]
                made.append(torch.cat(four))
            made.append(self.sub)
        return made

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Features [rows, hidden] of all pictures, one after the other."""
        made: list[torch.Tensor] = []
        for views, size in zip(pixels, sizes.tolist(), strict=True):
            height, width = size[0] // SIDE, size[1] // SIDE
            used = views[: 1 + height * width]
            states = self.clip(used, output_hidden_states=True).hidden_states[-2][:, 1:]
            made += self.rows(states[1:], height, width)
            made += [self.glb, *self.rows(states[:1], 1, 1)]
        out: torch.Tensor = self.projector(torch.stack(made))
        return out


class Reference:
    """The whole model.

    Args:
        checkpoint: a folder as `make_phi3v.py` writes it.
        text: a folder with other weights for the text part.
    """

    def __init__(self, checkpoint: Path, text: Path | None = None) -> None:
        tensors = tensors_of(checkpoint)
        self.vision = Vision(tensors)
        told = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        told = {key: value for key, value in told.items() if key not in _OF_REMOTE_CODE}
        told["rope_scaling"]["type"] = "longrope"
        language = Phi3ForCausalLM(Phi3Config(**told)).float().eval()
        inner = tensors.get(f"{VISION}wte.weight")
        tensors.setdefault("model.embed_tokens.weight", inner)
        tensors |= tensors_of(text) if text else {}
        language.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(VISION)})
        self.language = language

    @torch.no_grad()
    def embeddings(self, ids: np.ndarray, features: torch.Tensor | None) -> torch.Tensor:
        """[1, tokens, hidden]."""
        given = torch.from_numpy(ids).long().reshape(1, -1)
        made: torch.Tensor = self.language.get_input_embeddings()(given.clamp(min=0))
        if features is not None:
            made[given < 0] = features
        return made

    @torch.no_grad()
    def answer(
        self, ids: np.ndarray, features: torch.Tensor | None, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The logits of the prompt's positions, `count` greedy tokens, and their margins."""
        given, past, logits = self.embeddings(ids, features), None, None
        tokens: list[int] = []
        margins: list[float] = []
        for step in range(max(count, 1)):
            out = self.language(inputs_embeds=given, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits = out.logits[0].numpy() if step == 0 else logits
            best = out.logits[0, -1].topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            given = self.language.get_input_embeddings()(torch.tensor([tokens[-1:]]))
        assert logits is not None
        return logits, np.array(tokens[:count], np.int64), np.array(margins[:count])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path)
    args = parser.parse_args()
    reference, made = Reference(args.checkpoint, args.text), dict[str, Any]()
    with np.load(args.cases) as cases:
        for number in sorted({key.partition("_")[2] for key in cases}, key=int):
            features = None
            if (pixels := f"pixels_{number}") in cases:
                sizes = torch.from_numpy(cases[f"sizes_{number}"])
                features = reference.vision(torch.from_numpy(cases[pixels]), sizes)
                made[f"features_{number}"] = features.numpy()
            if (ids := f"ids_{number}") in cases:
                count = int(cases[f"greedy_{number}"]) if f"greedy_{number}" in cases else 0
                logits, tokens, margins = reference.answer(cases[ids], features, count)
                made[f"logits_{number}"], made[f"tokens_{number}"] = logits, tokens
                made[f"margins_{number}"] = margins
    np.savez(args.out, **made)


if __name__ == "__main__":
    main()
