"""Vision, audio, multimodal and time-series families of transformers, from tiny configurations with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from architectures.base import BATCH, Architecture, Network, installed
from architectures.language import BOTH, LENGTH, TOKENS, model

VIT: dict[str, Any] = {"image_size": 20, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
                       "intermediate_size": 37, "num_labels": 5}  # fmt: skip
STAGES: dict[str, Any] = {"image_size": 64, "embed_dim": 12, "depths": [2, 1], "num_heads": [3, 4], "window_size": 4, "num_labels": 5}
SPEECH: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37, "vocab_size": 31,
                          "conv_dim": [10, 12], "conv_kernel": [5, 3], "conv_stride": [3, 2], "num_conv_pos_embeddings": 8,
                          "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 2}  # fmt: skip
TEXT: dict[str, Any] = {"vocab_size": TOKENS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "intermediate_size": 27, "max_position_embeddings": 32, "projection_dim": 11, "eos_token_id": 2}  # fmt: skip
SERIES: dict[str, Any] = {"prediction_length": 4, "context_length": 12, "lags_sequence": [1, 2], "num_time_features": 1, "d_model": 24,
                          "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3, "decoder_attention_heads": 3,
                          "encoder_ffn_dim": 37, "decoder_ffn_dim": 35}  # fmt: skip

# name → (model class, base, what its configuration adds, inputs).
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "vit": ("ViTForImageClassification", VIT, {}, {"pixel_values": (3, 20, 20)}),
    "deit": ("DeiTForImageClassification", VIT, {}, {"pixel_values": (3, 20, 20)}),
    "beit": ("BeitForImageClassification", VIT, {"use_relative_position_bias": True}, {"pixel_values": (3, 20, 20)}),
    "data2vec_vision": ("Data2VecVisionModel", VIT, {}, {"pixel_values": (3, 20, 20)}),
    "dinov2": ("Dinov2ForImageClassification", VIT, {}, {"pixel_values": (3, 20, 20)}),
    "dinov3_vit": ("DINOv3ViTModel", VIT, {"num_register_tokens": 4}, {"pixel_values": (3, 20, 20)}),
    "ijepa": ("IJepaModel", VIT, {}, {"pixel_values": (3, 20, 20)}),
    "yolos": ("YolosModel", VIT, {"image_size": [20, 20], "num_detection_tokens": 4}, {"pixel_values": (3, 20, 20)}),
    "vit_msn": ("ViTMSNModel", VIT, {}, {"pixel_values": (3, 20, 20)}),
    "siglip_vision": ("SiglipVisionModel", VIT, {}, {"pixel_values": (3, 20, 20)}),
    "clip_vision": ("CLIPVisionModelWithProjection", VIT, {"projection_dim": 11}, {"pixel_values": (3, 20, 20)}),
    "swin": ("SwinForImageClassification", STAGES, {}, {"pixel_values": (3, 64, 64)}),
    "swinv2": ("Swinv2ForImageClassification", STAGES, {}, {"pixel_values": (3, 64, 64)}),
    "convnext": ("ConvNextForImageClassification", {}, {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2},
                 {"pixel_values": (3, 64, 64)}),
    "convnextv2": ("ConvNextV2ForImageClassification", {}, {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2},
                   {"pixel_values": (3, 64, 64)}),
    "resnet": ("ResNetForImageClassification", {}, {"embedding_size": 10, "hidden_sizes": [12, 20], "depths": [1, 2]},
               {"pixel_values": (3, 64, 64)}),
    "regnet": ("RegNetForImageClassification", {}, {"embedding_size": 10, "hidden_sizes": [12, 20], "depths": [1, 2], "groups_width": 4},
               {"pixel_values": (3, 64, 64)}),
    "segformer": ("SegformerForSemanticSegmentation", {}, {
        "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [12, 20], "patch_sizes": [7, 3], "strides": [4, 2],
        "num_attention_heads": [2, 4], "mlp_ratios": [2, 3], "decoder_hidden_size": 14, "num_labels": 5}, {"pixel_values": (3, 64, 64)}),
    "poolformer": ("PoolFormerForImageClassification", {}, {
        "hidden_sizes": [8, 12], "depths": [1, 1], "num_encoder_blocks": 2, "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1]},
        {"pixel_values": (3, 64, 64)}),
    "mobilevit": ("MobileViTForImageClassification", {}, {"image_size": 64, "hidden_sizes": [24, 28, 32]}, {"pixel_values": (3, 64, 64)}),
    "mobilevitv2": ("MobileViTV2ForImageClassification", {}, {"image_size": 64, "width_multiplier": 0.25}, {"pixel_values": (3, 64, 64)}),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", {}, {"depth_multiplier": 0.25}, {"pixel_values": (3, 64, 64)}),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", {}, {"depth_multiplier": 0.35}, {"pixel_values": (3, 64, 64)}),
    "focalnet": ("FocalNetForImageClassification", {}, {
        "image_size": 64, "embed_dim": 12, "hidden_sizes": [12, 24], "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
        {"pixel_values": (3, 64, 64)}),
    "pvt": ("PvtForImageClassification", {}, {
        "image_size": 64, "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [12, 20], "sequence_reduction_ratios": [2, 1],
        "num_attention_heads": [2, 4], "mlp_ratios": [2, 3], "patch_sizes": [4, 2], "strides": [4, 2]}, {"pixel_values": (3, 64, 64)}),
    "cvt": ("CvtForImageClassification", {}, {"embed_dim": [12, 18, 24], "num_heads": [1, 3, 4], "depth": [1, 2, 3],
        "drop_path_rate": [0.0, 0.0, 0.0]},
            {"pixel_values": (3, 64, 64)}),
    "levit": ("LevitForImageClassification", {}, {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8]},
        {"pixel_values": (3, 64, 64)}),
    "swiftformer": ("SwiftFormerForImageClassification", {}, {"depths": [1, 1, 1, 1], "embed_dims": [12, 16, 20, 28]},
                    {"pixel_values": (3, 64, 64)}),
    "glpn": ("GLPNForDepthEstimation", {}, {
        "depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20], "num_attention_heads": [1, 2, 4, 5], "decoder_hidden_size": 12},
        {"pixel_values": (3, 64, 64)}),
    "dpt": ("DPTForDepthEstimation", VIT, {
        "image_size": 32, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 10, 12, 14],
        "fusion_hidden_size": 18,
        "is_hybrid": False}, {"pixel_values": (3, 32, 32)}),
    "vit_mae": ("ViTMAEModel", VIT, {"mask_ratio": 0.0}, {"pixel_values": (3, 20, 20), "noise": (25,)}),
    "videomae": ("VideoMAEModel", VIT, {"num_frames": 4}, {"pixel_values": (4, 3, 20, 20)}),
    "timesformer": ("TimesformerModel", VIT, {"num_frames": 4}, {"pixel_values": (4, 3, 20, 20)}),
    "vivit": ("VivitModel", VIT, {"num_frames": 4, "tubelet_size": [2, 4, 4]}, {"pixel_values": (4, 3, 20, 20)}),
    "swin2sr": ("Swin2SRForImageSuperResolution", {}, {
        "image_size": 16, "embed_dim": 24, "depths": [2, 1], "num_heads": [3, 4], "window_size": 4, "upscale": 2}, {"pixel_values": (3, 16, 16)}),
    "wav2vec2": ("Wav2Vec2ForCTC", SPEECH, {}, {"input_values": (211,)}),
    "hubert": ("HubertForCTC", SPEECH, {}, {"input_values": (211,)}),
    "wavlm": ("WavLMForCTC", SPEECH, {}, {"input_values": (211,)}),
    "unispeech": ("UniSpeechModel", SPEECH, {}, {"input_values": (211,)}),
    "sew": ("SEWModel", SPEECH, {"squeeze_factor": 2}, {"input_values": (211,)}),
    "data2vec_audio": ("Data2VecAudioModel", SPEECH, {"conv_pos_kernel_size": 7}, {"input_values": (211,)}),
    "wav2vec2_conformer": ("Wav2Vec2ConformerModel", SPEECH, {"conv_depthwise_kernel_size": 5}, {"input_values": (211,)}),
    "audio_spectrogram_transformer": ("ASTForAudioClassification", VIT, {"max_length": 24, "num_mel_bins": 16, "frequency_stride": 4,
                                                                        "time_stride": 4}, {"input_values": (24, 16)}),
    "whisper": ("WhisperForConditionalGeneration", BOTH, {"num_mel_bins": 10, "max_source_positions": 15, "max_target_positions": 32},
                {"input_features": (10, 30), "decoder_input_ids": (-TOKENS, LENGTH)}),
    "speech_to_text": ("Speech2TextForConditionalGeneration", BOTH, {"input_feat_per_channel": 10, "conv_channels": 14, "num_conv_layers": 2},
                       {"input_features": (30, 10), "decoder_input_ids": (-TOKENS, LENGTH)}),
    "encodec": ("EncodecModel", {}, {"num_filters": 4, "hidden_size": 12, "codebook_size": 16, "upsampling_ratios": [4, 2],
                                     "codebook_dim": 12, "num_lstm_layers": 1}, {"input_values": (1, 160)}),
    "dac": ("DacModel", {}, {"encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_hidden_size": 24, "n_codebooks": 2,
                             "codebook_size": 16, "codebook_dim": 4, "upsampling_ratios": [4, 2], "hidden_size": 32},
            {"input_values": (1, 160)}),
    "patchtst": ("PatchTSTForPrediction", {}, {"num_input_channels": 3, "context_length": 16, "patch_length": 4, "patch_stride": 4,
                                               "prediction_length": 5, "d_model": 24, "num_attention_heads": 3, "ffn_dim": 37,
                                               "num_hidden_layers": 2}, {"past_values": (16, 3)}),
    "patchtsmixer": ("PatchTSMixerForPrediction", {}, {"num_input_channels": 3, "context_length": 16, "patch_length": 4, "patch_stride": 4,
                                                       "prediction_length": 5, "d_model": 24, "num_layers": 2}, {"past_values": (16, 3)}),
    "time_series_transformer": ("TimeSeriesTransformerModel", SERIES, {}, {
        "past_values": (14,), "past_time_features": (14, 1), "past_observed_mask": (14,), "future_values": (4,),
        "future_time_features": (4, 1)}),
    "decision_transformer": ("DecisionTransformerModel", {}, {
        "state_dim": 5, "act_dim": 4, "hidden_size": 24, "max_ep_len": 31, "n_layer": 2, "n_head": 3, "n_inner": 37},
        {"states": (LENGTH, 5), "actions": (LENGTH, 4), "rewards": (LENGTH, 1), "returns_to_go": (LENGTH, 1), "timesteps": (-31, LENGTH)}),
    "perceiver": ("PerceiverModel", {}, {"d_model": 10, "d_latents": 24, "num_latents": 6, "num_blocks": 1, "num_self_attends_per_block": 2,
                                         "num_self_attention_heads": 3, "num_cross_attention_heads": 2}, {"inputs": (LENGTH, 10)}),
    "clip": ("CLIPModel", {}, {"text_config": TEXT, "vision_config": VIT, "projection_dim": 11},
             {"input_ids": (-TOKENS, LENGTH), "pixel_values": (3, 20, 20)}),
    "siglip": ("SiglipModel", {}, {"text_config": {**TEXT, "projection_size": 24}, "vision_config": VIT}, {"input_ids": (-TOKENS, LENGTH),
        "pixel_values": (3, 20, 20)}),
    "blip": ("BlipModel", {}, {"text_config": {**TEXT, "encoder_hidden_size": 24}, "vision_config": VIT, "projection_dim": 11},
             {"input_ids": (-TOKENS, LENGTH), "pixel_values": (3, 20, 20)}),
    "vilt": ("ViltModel", {**TEXT, **VIT}, {"type_vocab_size": 2}, {"input_ids": (-TOKENS, LENGTH), "pixel_values": (3, 20, 20)}),
    "lxmert": ("LxmertModel", {"vocab_size": TOKENS, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 37},
               {"l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 9, "visual_pos_dim": 4},
               {"input_ids": (-TOKENS, LENGTH), "visual_feats": (6, 9), "visual_pos": (6, 4)}),
    "visual_bert": ("VisualBertModel", TEXT, {"visual_embedding_dim": 9}, {"input_ids": (-TOKENS, LENGTH), "visual_embeds": (6, 9)}),
}  # fmt: skip


# Networks that branch on data: they must be refused with a clear message.
REFUSED = ("encodec", "vilt")


def architectures() -> Iterator[Architecture]:
    if not installed("transformers"):
        return
    for name, (kind, base, options, shapes) in NETWORKS.items():
        yield Architecture(f"transformers:{name}", partial(_build, kind, {**base, **options}, shapes), refused=name in REFUSED)


def _build(kind: str, options: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Network:
    """Inputs are float, of the shapes given behind the batch; a negative first number stands for integers below its magnitude."""
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for name, shape in shapes.items():
        if shape[0] < 0:
            inputs[name] = torch.randint(3, -shape[0], (BATCH, *shape[1:]), generator=generator)
        else:
            inputs[name] = torch.randn(BATCH, *shape, generator=generator)
    return Network(model(kind, options), (), inputs)
