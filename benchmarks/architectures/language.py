"""Language, speech and sequence-to-sequence families of transformers, from tiny configurations with random weights.

Sizes differ wherever they may: streams of 24 or 48, heads of 8, inner layers of 37, 53 tokens, sequences of 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from architectures.base import BATCH, Architecture, Network, installed

TOKENS, LENGTH = 53, 7

ENCODER: dict[str, Any] = {"vocab_size": TOKENS, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
                           "intermediate_size": 37, "max_position_embeddings": 64, "type_vocab_size": 2}  # fmt: skip
DECODER: dict[str, Any] = {"vocab_size": TOKENS, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
                           "num_key_value_heads": 3, "head_dim": 8, "intermediate_size": 37, "max_position_embeddings": 64,
                           "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
EXPERTS: dict[str, Any] = {**DECODER, "num_experts": 5, "num_local_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 19}
BOTH: dict[str, Any] = {"vocab_size": TOKENS, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
                        "decoder_attention_heads": 3, "encoder_ffn_dim": 37, "decoder_ffn_dim": 35, "max_position_embeddings": 64,
                        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
T5: dict[str, Any] = {"vocab_size": TOKENS, "d_model": 24, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 3,
                      "decoder_start_token_id": 0, "pad_token_id": 0}  # fmt: skip

# name → (model class, what its configuration adds to the base).
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", {}), "albert": ("AlbertForMaskedLM", {"embedding_size": 10}), "deberta": ("DebertaModel", {}),
    "deberta_v2": ("DebertaV2ForMaskedLM", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}),
    "roberta": ("RobertaForMaskedLM", {}), "electra": ("ElectraForMaskedLM", {"embedding_size": 10}),
    "distilbert": ("DistilBertForMaskedLM", {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 37}),
    "camembert": ("CamembertForMaskedLM", {}), "ernie": ("ErnieForMaskedLM", {}), "mpnet": ("MPNetForMaskedLM", {}),
    "mobilebert": ("MobileBertForMaskedLM", {"embedding_size": 10, "intra_bottleneck_size": 12, "true_hidden_size": 12}),
    "squeezebert": ("SqueezeBertForMaskedLM", {"embedding_size": 24, "q_groups": 3, "k_groups": 3, "v_groups": 3, "intermediate_size": 36,
                                               "post_attention_groups": 1, "intermediate_groups": 3, "output_groups": 3}),
    "convbert": ("ConvBertForMaskedLM", {"embedding_size": 10, "head_ratio": 1, "conv_kernel_size": 3}), "fnet": ("FNetForMaskedLM", {}),
    "funnel": ("FunnelModel", {"num_hidden_layers": None, "block_sizes": [1, 1], "d_model": 24, "n_head": 3, "d_head": 8, "d_inner": 37}),
    "roformer": ("RoFormerForMaskedLM", {"embedding_size": 24}), "rembert": ("RemBertModel", {"input_embedding_size": 10}),
    "megatron_bert": ("MegatronBertModel", {}), "nystromformer": ("NystromformerModel", {"segment_means_seq_len": 7, "num_landmarks": 7}),
    "xlnet": ("XLNetModel", {"max_position_embeddings": None, "d_model": 24, "n_layer": 2, "n_head": 3, "d_inner": 37}),
        "esm": ("EsmForMaskedLM", {"pad_token_id": 1}),
    "modernbert": ("ModernBertForMaskedLM", {"pad_token_id": 0}), "big_bird": ("BigBirdModel", {"attention_type": "original_full"}),
    "layoutlm": ("LayoutLMModel", {}), "ibert": ("IBertModel", {}), "splinter": ("SplinterModel", {}), "yoso": ("YosoModel", {}),
    "bert_generation": ("BertGenerationEncoder", {}), "longformer": ("LongformerModel", {"attention_window": [4, 4]}),
    "reformer": ("ReformerModel", {"attn_layers": ["local"], "feed_forward_size": 37, "axial_pos_embds": False, "attention_head_size": 8}),
    "canine": ("CanineModel", {"num_hash_buckets": 31, "num_hash_functions": 2, "local_transformer_stride": 4, "downsampling_rate": 4}),
}  # fmt: skip

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_inner": 37, "n_positions": 64}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_inner": 37, "n_positions": 64}),
    "openai_gpt": ("OpenAIGPTLMHeadModel", {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 64}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 37, "word_embed_proj_dim": 48}),
    "bloom": ("BloomForCausalLM", {"n_layer": 2, "n_head": 6}), "mpt": ("MptForCausalLM", {"d_model": 48, "n_heads": 6, "n_layers": 2}),
    "gpt_neo": ("GPTNeoForCausalLM", {"num_layers": 2, "num_heads": 6, "attention_types": [[["global", "local"], 1]]}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}), "gptj": ("GPTJForCausalLM", {"n_embd": 48, "n_layer": 2, "n_head": 6, "rotary_dim": 4}),
    "codegen": ("CodeGenForCausalLM", {"n_embd": 48, "n_layer": 2, "n_head": 8, "num_attention_heads": 8, "rotary_dim": 4}),
    "falcon": ("FalconForCausalLM", {"head_dim": None}), "falcon, new decoder": ("FalconForCausalLM", {"head_dim": None,
        "new_decoder_architecture": True, "num_kv_heads": 3}),
    "xglm": ("XGLMForCausalLM", {"d_model": 48, "num_layers": 2, "attention_heads": 6, "ffn_dim": 37}),
    "biogpt": ("BioGptForCausalLM", {}), "ctrl": ("CTRLLMHeadModel", {"n_embd": 48, "dff": 37, "n_layer": 2, "n_head": 6}),
    "llama": ("LlamaForCausalLM", {}), "llama, tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {}), "qwen2": ("Qwen2ForCausalLM", {}), "qwen3": ("Qwen3ForCausalLM", {}),
    "gemma": ("GemmaForCausalLM", {}), "gemma2": ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gemma3_text": ("Gemma3ForCausalLM", {"query_pre_attn_scalar": 8, "sliding_window": 4}), "phi": ("PhiForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", {}), "stablelm": ("StableLmForCausalLM", {}), "starcoder2": ("Starcoder2ForCausalLM", {}),
    "olmo": ("OlmoForCausalLM", {}), "olmo2": ("Olmo2ForCausalLM", {}), "cohere": ("CohereForCausalLM", {}),
    "cohere2": ("Cohere2ForCausalLM", {"sliding_window": 4}), "granite": ("GraniteForCausalLM", {}), "nemotron": ("NemotronForCausalLM", {}),
    "persimmon": ("PersimmonForCausalLM", {}), "glm": ("GlmForCausalLM", {}), "glm4": ("Glm4ForCausalLM", {}),
    "smollm3": ("SmolLM3ForCausalLM", {}), "helium": ("HeliumForCausalLM", {}), "exaone4": ("Exaone4ForCausalLM", {"sliding_window": 4}),
    "diffllama": ("DiffLlamaForCausalLM", {"num_attention_heads": 8, "num_key_value_heads": 4}), "bitnet": ("BitNetForCausalLM", {}),
        "seed_oss": ("SeedOssForCausalLM", {}),
    "minicpm3": ("MiniCPM3ForCausalLM", {"q_lora_rank": 11, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 9,
        "head_dim": None, "num_key_value_heads": 6}), "ernie4_5": ("Ernie4_5ForCausalLM", {}), "nanochat": ("NanoChatForCausalLM", {}),
    "mamba": ("MambaForCausalLM", {"state_size": 5, "time_step_rank": 4}),
    "mamba2": ("Mamba2ForCausalLM", {"state_size": 5, "num_heads": 12, "n_groups": 2, "expand": 2, "chunk_size": 4}),
    "falcon_mamba": ("FalconMambaForCausalLM", {"state_size": 5, "time_step_rank": 4}),
    "rwkv": ("RwkvForCausalLM", {"attention_hidden_size": 48}), "lfm2": ("Lfm2ForCausalLM", {"layer_types": ["conv", "full_attention"]}),
    "recurrent_gemma": ("RecurrentGemmaForCausalLM", {"lru_width": 48, "block_types": ["recurrent", "attention"]}),
}  # fmt: skip

MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", {}), "qwen2_moe": ("Qwen2MoeForCausalLM", {"shared_expert_intermediate_size": 21}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {}), "olmoe": ("OlmoeForCausalLM", {}), "granitemoe": ("GraniteMoeForCausalLM", {}),
    "phimoe": ("PhimoeForCausalLM", {}), "gpt_oss": ("GptOssForCausalLM", {"sliding_window": 4}), "jetmoe": ("JetMoeForCausalLM", {}),
    "dbrx": ("DbrxForCausalLM", {"d_model": 48, "n_heads": 6, "n_layers": 2,
                                 "attn_config": {"kv_n_heads": 3, "rope_theta": 10000.0, "clip_qkv": 8.0}, "ffn_config": {"ffn_hidden_size": 19,
        "moe_num_experts": 5}}),
    "llama4_text": ("Llama4ForCausalLM", {"intermediate_size_mlp": 37}), "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", {"moe_num_experts": 5}),
    "deepseek_v2": ("DeepseekV2ForCausalLM", {"q_lora_rank": 11, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6,
                                              "v_head_dim": 9, "head_dim": 4, "num_experts": None, "num_local_experts": None,
        "n_routed_experts": 6, "n_group": 2, "topk_group": 1,
                                              "topk_method": "group_limited_greedy", "first_k_dense_replace": 1, "num_key_value_heads": 6}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {"q_lora_rank": 11, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6,
                                              "v_head_dim": 9, "head_dim": 4, "num_experts": None, "num_local_experts": None,
        "n_routed_experts": 6, "n_group": 2, "topk_group": 1,
                                              "first_k_dense_replace": 1, "num_key_value_heads": 6}),
    "glm4_moe": ("Glm4MoeForCausalLM", {"num_experts": None, "num_local_experts": None, "n_routed_experts": 6, "n_group": 2, "topk_group": 1,
        "first_k_dense_replace": 1}),
    "minimax": ("MiniMaxForCausalLM", {"layer_types": ["linear_attention", "full_attention"]}),
    "qwen3_next": ("Qwen3NextForCausalLM", {"shared_expert_intermediate_size": 21, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                                            "linear_key_head_dim": 6, "linear_value_head_dim": 5,
                                            "layer_types": ["linear_attention", "full_attention"]}),
    "jamba": ("JambaForCausalLM", {"mamba_d_state": 5, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
                                   "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False}),
}  # fmt: skip

SEQUENCES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", T5, {}), "t5, gated": ("T5ForConditionalGeneration", T5, {"feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5ForConditionalGeneration", T5, {}), "umt5": ("UMT5ForConditionalGeneration", T5, {}),
    "longt5": ("LongT5ForConditionalGeneration", T5, {"local_radius": 4}),
    "switch_transformers": ("SwitchTransformersForConditionalGeneration", T5, {"num_experts": 5}),
    "bart": ("BartForConditionalGeneration", BOTH, {}), "mbart": ("MBartForConditionalGeneration", BOTH, {}),
    "pegasus": ("PegasusForConditionalGeneration", BOTH, {}), "marian": ("MarianMTModel", BOTH, {}), "plbart": ("PLBartModel", BOTH, {}),
    "blenderbot": ("BlenderbotForConditionalGeneration", BOTH, {}), "m2m_100": ("M2M100ForConditionalGeneration", BOTH, {}),
    "prophetnet": ("ProphetNetModel", {"vocab_size": TOKENS, "hidden_size": 24, "num_encoder_layers": 2, "num_decoder_layers": 2,
                                       "num_encoder_attention_heads": 3, "num_decoder_attention_heads": 3, "encoder_ffn_dim": 37,
                                       "decoder_ffn_dim": 35, "max_position_embeddings": 64}, {}),
    "led": ("LEDModel", BOTH, {"attention_window": 4}),
}  # fmt: skip


def architectures() -> Iterator[Architecture]:
    if not installed("transformers"):
        return
    for base, group in ((ENCODER, ENCODERS), (DECODER, DECODERS), (EXPERTS, MIXTURES)):
        for name, (kind, options) in group.items():
            yield Architecture(f"transformers:{name}", partial(_tokens, kind, {**base, **options}, 8 if name in EVEN else LENGTH),
                               refused=name in REFUSED)
    for name, (kind, base, options) in SEQUENCES.items():
        yield Architecture(f"transformers:{name}", partial(_sequence, kind, {**base, **options}), refused=name in REFUSED)


# Lengths that blocks of attention divide.
EVEN = ("reformer", "longformer", "canine")
# Networks that branch on data: they must be refused with a clear message.
REFUSED = ("longformer", "led", "dbrx", "jetmoe", "switch_transformers")


def model(kind: str, options: dict[str, Any]) -> torch.nn.Module:
    """A transformers network by its class, in evaluation mode. Options that its configuration does not know, or None, are left out."""
    import transformers

    transformers.logging.set_verbosity_error()
    cls = getattr(transformers, kind)
    plain = cls.config_class()
    known = {k: v for k, v in options.items() if hasattr(plain, k) and v is not None}
    config = cls.config_class(**known)
    config.use_cache = False
    config._experts_implementation = "batched_mm"
    config._attn_implementation = "sdpa" if getattr(cls, "_supports_sdpa", False) else "eager"
    return cls(config).eval()  # type: ignore[no-any-return]


def _tokens(kind: str, options: dict[str, Any], length: int) -> Network:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, TOKENS, (BATCH, length), generator=generator)
    return Network(model(kind, options), (), {"input_ids": tokens})


def _sequence(kind: str, options: dict[str, Any]) -> Network:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(3, TOKENS, (BATCH, n), generator=generator) for n in (LENGTH, LENGTH + 2))
    return Network(model(kind, options), (), {"input_ids": source, "attention_mask": torch.ones_like(source), "decoder_input_ids": target})
