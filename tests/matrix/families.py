"""The architectures, as data: a tiny configuration of each, or why it is not tested.

Dimensions are even multiples of 32, the builder's block size (onnxruntime's k_quant cannot pack an
odd number of blocks). A window of 16 is shorter than the 24 tokens that are compared: its loss
shows. Each family comes in three shapes at least (`shapes.py`): heads that share keys and values by
two, wide heads that share none, and one head of keys and values for all, where a window is longer
than the text. The vocabulary is as long as the rows of no layer.
"""

from __future__ import annotations

from typing import Any

import msgspec

VOCABULARY = 1056
_TOP = VOCABULARY - 32  # ids from here on stand for pictures; no text that is compared has them


class Family(msgspec.Struct, frozen=True):
    """One case of the matrix.

    Attributes:
        name: the architecture, in brackets what is special about this one.
        config: transformers' configuration class; empty when it is not tested.
        values: its arguments.
        edit: keys of config.json that transformers 5 does not write itself.
        why_not: the reason it is not tested.
        note: what somebody who builds this family should know.
        pictures: it takes pictures; NAME of the scripts `make_NAME.py` and `NAME_reference.py`.
        shape: options of the first one.
    """

    name: str
    config: str = ""
    values: dict[str, Any] = {}
    edit: dict[str, Any] = {}
    why_not: str = ""
    note: str = ""
    pictures: str = ""
    shape: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """As in `architectures[0]`."""
        return self.name.split(" ")[0]


def _text(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        **changes,
    }


WINDOW = 16
_SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA = _text(hidden_size=256, head_dim=64, tie_word_embeddings=True)
_GEMMA_NOTE = (
    "the builder rounds the embedding's factor sqrt(hidden size) to two decimals; here it is 16"
)
_GEMMA_4 = {
    **_GEMMA, **_SLIDING, "global_head_dim": 64, "num_global_key_value_heads": 2,
    "final_logit_softcapping": 30.0, "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": VOCABULARY,
}  # fmt: skip
_GRANITE = _text(
    embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22,
    attention_multiplier=0.0625,
)  # fmt: skip
_LFM2 = _text(
    layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False,
    tie_word_embeddings=True,
)  # fmt: skip
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
_LONGROPE = _text(
    max_position_embeddings=512, original_max_position_embeddings=256,
    rope_parameters={
        "rope_type": "longrope", "rope_theta": 10000.0,
        "short_factor": [1.0 + i / 50 for i in range(16)],
        "long_factor": [1.0 + 3 * i / 16 for i in range(16)],
    },
)  # fmt: skip
# as Microsoft's own config.json has it
_TYPED = {
    "rope_parameters": None,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "longrope",
        **{key: _LONGROPE["rope_parameters"][key] for key in ("short_factor", "long_factor")},
    },
}
_SIGHT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
_QWEN_SIGHT = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14,
    "out_hidden_size": 128, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
_QWEN_IDS = {
    "image_token_id": _TOP + 28, "video_token_id": _TOP + 29,
    "vision_start_token_id": _TOP + 30, "vision_end_token_id": _TOP + 31,
}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
_QWEN_3_5 = _text(
    head_dim=64, layer_types=["linear_attention", "full_attention"],
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32,
    linear_value_head_dim=32,
    rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
        "mrope_section": [4, 2, 2], "mrope_interleaved": True,
    },
)  # fmt: skip
_GEMMA_IDS = {
    "boi_token_id": _TOP + 18, "eoi_token_id": _TOP + 19, "image_token_id": _TOP + 20,
    "video_token_id": _TOP + 21,
    "boa_token_id": _TOP + 22, "eoa_token_index": _TOP + 23, "audio_token_id": _TOP + 24,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
_SMOLVLM = (
    "with pictures: eight views before the question, vision in FP32 and beside INT4 in INT8; "
    "stepwise is view by view"
)
_REMOTE = "its code is in the model's repository, not in transformers 5.23"

PLAIN: tuple[Family, ...] = (
    Family("LlamaForCausalLM", "LlamaConfig", _text()),
    Family("LlamaForCausalLM (tied, biases)", "LlamaConfig", _text(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=False)),
    Family("LlamaForCausalLM (llama3 RoPE)", "LlamaConfig", _text(rope_parameters={
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64})),
    Family("LlamaForCausalLM (linear RoPE)", "LlamaConfig", _text(rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})),
    Family("LlamaForCausalLM (keys that transformers does not read)", "LlamaConfig", _text(), {
        "partial_rotary_factor": 0.5, "sliding_window": 8, "attn_logit_softcapping": 20.0,
        "final_logit_softcapping": 15.0, "hidden_activation": "relu", "num_local_experts": 4,
        "seq_length": 64, "rope_position_scale": 0.5}),
    Family("LlamaForCausalLM (narrow heads)", "LlamaConfig", _text(head_dim=40)),
    Family("Qwen2ForCausalLM", "Qwen2Config", _text()),
    Family("Qwen2ForCausalLM (YaRN)", "Qwen2Config", _text(
        max_position_embeddings=16384, rope_parameters={**_YARN, **_BETAS})),
    Family("Qwen2ForCausalLM (YaRN, borders not rounded)", "Qwen2Config", _text(
        max_position_embeddings=16384,
        rope_parameters={**_YARN, **_BETAS, "truncate": False})),
    Family("Qwen2ForCausalLM (YaRN, attention factor)", "Qwen2Config", _text(
        max_position_embeddings=16384, rope_parameters={**_YARN, "attention_factor": 1.5})),
    Family("Qwen2ForCausalLM (YaRN, one mscale)", "Qwen2Config", _text(
        max_position_embeddings=16384, rope_parameters={**_YARN, "mscale": 0.7})),
    Family("Qwen2ForCausalLM (a part of each head)", "Qwen2Config", _text(rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})),
    Family("Qwen2ForCausalLM (sliding window beyond the context)", "Qwen2Config", _text(
        use_sliding_window=True, sliding_window=1024, max_window_layers=1)),
    Family("Qwen2ForCausalLM (YaRN, betas left out)", "Qwen2Config", _text(
        max_position_embeddings=16384, rope_parameters=_YARN)),
    Family("Qwen3ForCausalLM", "Qwen3Config", _text(head_dim=64)),
    Family("GemmaForCausalLM", "GemmaConfig", _GEMMA, note=_GEMMA_NOTE),
    Family("Gemma2ForCausalLM", "Gemma2Config", {
        **_GEMMA, **_SLIDING, "query_pre_attn_scalar": 64}, note=_GEMMA_NOTE),
    Family("Gemma2ForCausalLM (sliding window of 4096)", "Gemma2Config", {
        **_GEMMA, **_SLIDING, "query_pre_attn_scalar": 64, "sliding_window": 4096,
        "max_position_embeddings": 8192}, note=_GEMMA_NOTE),
    Family("Gemma3ForCausalLM", "Gemma3TextConfig", {
        **_GEMMA, **_SLIDING, "query_pre_attn_scalar": 64}),
    Family("Gemma3ForCausalLM (linear RoPE, as 4 B and more)", "Gemma3TextConfig", {
        **_GEMMA, **_SLIDING, "query_pre_attn_scalar": 64, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    Family("Gemma3ForConditionalGeneration", "Gemma3Config", {
        "text_config": {**_GEMMA, **_SLIDING, "query_pre_attn_scalar": 64},
        "vision_config": {"model_type": "siglip_vision_model", **_SIGHT},
        "mm_tokens_per_image": 4, "image_token_index": _TOP + 28, "boi_token_index": _TOP + 29,
        "eoi_token_index": _TOP + 30}),
    Family("Gemma4ForConditionalGeneration", "Gemma4Config", {
        "text_config": {**_GEMMA_4, "enable_moe_block": True, "num_experts": 4,
                        "top_k_experts": 2, "moe_intermediate_size": 128}, **_GEMMA_IDS}),
    Family("Gemma4ForConditionalGeneration (no experts)", "Gemma4Config", {
        "text_config": _GEMMA_4, **_GEMMA_IDS}),
    Family("Gemma4UnifiedForConditionalGeneration", "Gemma4UnifiedConfig", {
        "text_config": _GEMMA_4, **_GEMMA_IDS}),
    Family("MistralForCausalLM", "MistralConfig", _text(sliding_window=None)),
    Family("MistralForCausalLM (sliding window)", "MistralConfig", _text(sliding_window=WINDOW)),
    Family("MistralForCausalLM (sliding window of 4096)", "MistralConfig", _text(
        sliding_window=4096, max_position_embeddings=8192)),
    Family("MistralForCausalLM (the window of its class)", "MistralConfig", _text(
        sliding_window=WINDOW, max_position_embeddings=8192), {"sliding_window": None}),
    Family("Mistral3ForConditionalGeneration", "Mistral3Config", {
        "text_config": {"model_type": "mistral", **_text(sliding_window=None, head_dim=32)},
        "vision_config": {"model_type": "pixtral", **_SIGHT, "head_dim": 16},
        "image_token_index": _TOP + 28, "tie_word_embeddings": False}),
    Family("PhiForCausalLM", "PhiConfig", _text(num_key_value_heads=4)),
    Family("PhiForCausalLM (qk_layernorm)", "PhiConfig", _text(
        num_key_value_heads=4, qk_layernorm=True)),
    Family("Phi3ForCausalLM", "Phi3Config", _text(original_max_position_embeddings=512)),
    Family("Phi3ForCausalLM (two lengths without LongRoPE)", "Phi3Config", _text(
        original_max_position_embeddings=256)),
    Family("Phi3ForCausalLM (sliding window of 2047)", "Phi3Config", _text(
        max_position_embeddings=4096, original_max_position_embeddings=4096,
        sliding_window=2047)),
    Family("Phi3ForCausalLM (LongRoPE, attention factor)", "Phi3Config", {
        **_LONGROPE, "rope_parameters": {**_LONGROPE["rope_parameters"], "attention_factor": 1.5}}),
    Family("Phi3ForCausalLM (sliding window)", "Phi3Config", _text(
        original_max_position_embeddings=512, sliding_window=WINDOW)),
    Family("Phi3ForCausalLM (LongRoPE)", "Phi3Config", _LONGROPE, _TYPED,
           note="below 4096 tokens: the runtime changes factors there, whatever the model says"),
    Family("Phi3ForCausalLM (LongRoPE, saved by transformers 5)", "Phi3Config", _LONGROPE),
    Family("GraniteForCausalLM", "GraniteConfig", _GRANITE),
    Family("GraniteMoeHybridForCausalLM (dense)", "GraniteMoeHybridConfig", {
        **_GRANITE, "layer_types": ["attention", "attention"], "num_local_experts": 0,
        "num_experts_per_tok": 0, "shared_intermediate_size": 256,
        "position_embedding_type": "rope"}),
    Family("GraniteMoeHybridForCausalLM (no rotary positions)", "GraniteMoeHybridConfig", {
        **_GRANITE, "layer_types": ["attention", "attention"], "num_local_experts": 0,
        "num_experts_per_tok": 0, "shared_intermediate_size": 256,
        "position_embedding_type": "nope"}),
    Family("GraniteMoeHybridForCausalLM (Mamba)", "GraniteMoeHybridConfig", {
        **_GRANITE, "layer_types": ["mamba", "attention"], "num_local_experts": 0,
        "num_experts_per_tok": 0, "shared_intermediate_size": 256, "mamba_n_heads": 8,
        "mamba_d_head": 32, "mamba_d_state": 32, "mamba_chunk_size": 32}),
    Family("GraniteMoeHybridForCausalLM (experts)", "GraniteMoeHybridConfig", {
        **_GRANITE, "layer_types": ["attention", "attention"], "num_local_experts": 4,
        "num_experts_per_tok": 2, "shared_intermediate_size": 256,
        "position_embedding_type": "rope"}),
    Family("SmolLM3ForCausalLM", "SmolLM3Config", _text(no_rope_layers=[1, 0])),
    Family("SmolLM3ForCausalLM (RoPE in every layer)", "SmolLM3Config", _text(
        no_rope_layers=[1, 1])),
    Family("Ernie4_5ForCausalLM", "Ernie4_5Config", _text(head_dim=32, use_bias=False)),
    Family("HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Config", _text(head_dim=32)),
    Family("NemotronForCausalLM", "NemotronConfig", _text()),
    Family("NemotronForCausalLM (MLP biases)", "NemotronConfig", _text(mlp_bias=True)),
    Family("OlmoForCausalLM", "OlmoConfig", _text()),
    Family("Lfm2ForCausalLM", "Lfm2Config", _LFM2),
    Family("Lfm2ForCausalLM (conv_bias)", "Lfm2Config", {**_LFM2, "conv_bias": True}),
    Family("Lfm2MoeForCausalLM", "Lfm2MoeConfig", {
        **_LFM2, **_MOE, "num_dense_layers": 1}),
    Family("Lfm2VlForConditionalGeneration", "Lfm2VlConfig", {
        "text_config": {"model_type": "lfm2", **_LFM2},
        "vision_config": {"model_type": "siglip2_vision_model", "hidden_size": 32,
                          "intermediate_size": 64, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "num_patches": 16, "patch_size": 4},
        "image_token_id": _TOP + 28, "projector_hidden_size": 64}),
    Family("GptOssForCausalLM", "GptOssConfig", _text(
        head_dim=32, num_local_experts=4, num_experts_per_tok=2, **_SLIDING)),
    Family("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", {
        "text_config": _text(rope_parameters=_MROPE), "vision_config": _QWEN_SIGHT, **_QWEN_IDS}),
    Family("Qwen3VLForConditionalGeneration", "Qwen3VLConfig", {
        "text_config": _text(head_dim=32, rope_parameters={**_MROPE, "mrope_interleaved": True}),
        "vision_config": _QWEN_SIGHT, **_QWEN_IDS}),
    Family("Qwen3_5ForConditionalGeneration", "Qwen3_5Config", {
        "text_config": _QWEN_3_5, "vision_config": _QWEN_SIGHT, **_QWEN_IDS}),
    Family("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeConfig", {
        "text_config": {**_QWEN_3_5, **_MOE, "shared_expert_intermediate_size": 128},
        "vision_config": _QWEN_SIGHT, **_QWEN_IDS}),
    Family("PhiMoEForCausalLM", why_not="the builder makes it for CUDA alone, which the plan says"),
    Family("Lfm2AudioForConditionalGeneration", why_not=(
        "transformers 5.23 has no class for it, and so nothing to compare with")),
    Family("ChatGLMForConditionalGeneration", why_not=_REMOTE),
    Family("ChatGLMModel", why_not=_REMOTE),
    Family("InternLM2ForCausalLM", why_not=_REMOTE),
    Family("Phi3SmallForCausalLM", why_not=_REMOTE),
    Family("Phi3VForCausalLM", "Phi3Config", {**_LONGROPE, **_TYPED}, pictures="phi3v", note=(
        "with pictures: two of them before the question, vision in FP32 and beside INT4 in INT8; "
        "stepwise is view by view")),
    Family("SmolVLMForConditionalGeneration", "SmolVLMConfig", pictures="smolvlm", note=_SMOLVLM),
    Family("Idefics3ForConditionalGeneration", "Idefics3Config", pictures="smolvlm",
           shape=("--idefics3",), note=_SMOLVLM),
    Family("Phi4MMForCausalLM", why_not=_REMOTE),
    Family("VideoChatFlashQwenForCausalLM", why_not=_REMOTE),
    Family("WhisperForConditionalGeneration", why_not="it turns speech into text"),
)  # fmt: skip
