"""Reduced twins of whole families: the automorphisms of the exported graph act on parameters as the annotated group does, no more, no less.

The networks are the libraries' own classes in tiny configurations. igraph counts. `make sweep` does the same for every architecture that is
small enough, and compares orbits for larger ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.models.torchvision import import_torchvision
from tests.support.automorphisms import log_action
from tests.support.orbits import orbits

import_torchvision()  # before timm, which imports it

from timm import models as timm_models  # noqa: E402
from torchvision import models  # noqa: E402

Twin = tuple[Callable[[], nn.Module], int]


def _convnext() -> nn.Module:
    block = models.convnext.CNBlockConfig
    return models.ConvNeXt([block(8, 12, 1), block(12, None, 1)], num_classes=5)


def _efficientnet() -> nn.Module:
    block = partial(models.efficientnet.MBConvConfig, width_mult=1, depth_mult=1)
    return models.EfficientNet([block(3, 3, 1, 8, 8, 1), block(4, 3, 2, 8, 16, 2)], dropout=0.0, num_classes=5, last_channel=24)


def _regnet() -> nn.Module:
    params = models.regnet.BlockParams(depths=[1, 2], widths=[8, 12], group_widths=[4, 4], bottleneck_multipliers=[1, 1], strides=[2, 2],
                                       se_ratio=0.25)  # fmt: skip
    return models.RegNet(params, num_classes=5, stem_width=6)


def _swin(kind: type[nn.Module], **options: Any) -> nn.Module:
    return kind(patch_size=[2, 2], embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=[2, 2], num_classes=5, **options)


def _resnet(block: str, **options: Any) -> nn.Module:
    kind = getattr(timm_models.resnet, block, None) or getattr(timm_models.res2net, block)
    widths = options.pop("channels", (4, 6, 8, 10))
    return timm_models.ResNet(kind, layers=(1, 2, 1, 1), channels=widths, num_classes=5, stem_width=6, **options)


# name → (constructor, input size); images of three channels.
TWINS: dict[str, Twin] = {
    "resnet, basic blocks": (partial(_resnet, "BasicBlock"), 16),
    "resnet, bottlenecks": (partial(_resnet, "Bottleneck"), 16),
    "resnext": (partial(_resnet, "Bottleneck", cardinality=2, base_width=64, channels=(2, 4, 2, 4)), 16),
    "mobilenet v2": (lambda: models.MobileNetV2(5, 0.01, [[1, 8, 1, 1], [2, 8, 2, 2]]), 16),
    "densenet": (lambda: models.DenseNet(4, (2, 2), 8, bn_size=2, num_classes=5), 32),
    "shufflenet v2": (lambda: models.ShuffleNetV2([2, 2, 1], [8, 12, 16, 20, 24], num_classes=5), 32),
    "convnext": (_convnext, 16),
    "efficientnet": (_efficientnet, 16),
    "regnet with squeezes": (_regnet, 16),
    "vision transformer": (lambda: models.VisionTransformer(8, 4, 2, 2, 12, 10, num_classes=5), 8),
    "swin": (partial(_swin, models.SwinTransformer), 16),
    "swin v2": (partial(_swin, models.SwinTransformer, block=models.swin_transformer.SwinTransformerBlockV2,
                        downsample_layer=models.swin_transformer.PatchMergingV2), 16),
    "mixer": (lambda: timm_models.MlpMixer(img_size=16, patch_size=8, embed_dim=12, num_blocks=2, num_classes=5), 16),
    "resmlp": (lambda: timm_models.MlpMixer(img_size=16, patch_size=8, embed_dim=12, num_blocks=1, num_classes=5, mlp_ratio=2,
                                            block_layer=timm_models.mlp_mixer.ResBlock, norm_layer=timm_models.mlp_mixer.Affine), 16),
    "gmlp": (lambda: timm_models.MlpMixer(img_size=16, patch_size=8, embed_dim=12, num_blocks=1, num_classes=5, mlp_ratio=2,
                                          block_layer=timm_models.mlp_mixer.SpatialGatingBlock, mlp_layer=timm_models.mlp_mixer.GatedMlp), 16),
    "cait": (lambda: timm_models.Cait(img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=3, num_classes=5), 16),
    "xcit": (lambda: timm_models.Xcit(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=5, cls_attn_layers=1), 32),
    "timm's vit, with layer scale and query norms": (lambda: timm_models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=12, depth=1, num_heads=3, num_classes=5, qk_norm=True, init_values=0.1, class_token=False,
        global_pool="avg"), 8),
    "eva: rotary positions, gated": (lambda: timm_models.Eva(
        img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=5, use_rot_pos_emb=True, swiglu_mlp=True, mlp_ratio=2.5), 8),
    "res2net": (partial(_resnet, "Bottle2neck", base_width=64, block_args={"scale": 2}, channels=(2, 4, 2, 4)), 16),
}  # fmt: skip

# Transformers families, smallest configurations: class, options.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 10, "max_position_embeddings": 9}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 12, "n_head": 3, "n_layer": 2, "n_inner": 10, "n_positions": 9}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 12, "n_head": 3, "n_layer": 1}),
    "llama, grouped queries": ("LlamaForCausalLM", {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
                                                    "intermediate_size": 10, "max_position_embeddings": 9}),
    "t5": ("T5EncoderModel", {"d_model": 12, "d_kv": 4, "d_ff": 10, "num_layers": 2, "num_heads": 3}),
    "mixtral": ("MixtralForCausalLM", {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
                                       "intermediate_size": 6, "num_local_experts": 3, "num_experts_per_tok": 2,
                                       "max_position_embeddings": 9}),
    "mamba": ("MambaForCausalLM", {"hidden_size": 6, "state_size": 3, "time_step_rank": 2}),
}  # fmt: skip


def _bottleneck_attention() -> nn.Module:
    """Queries meet a table of heights and a table of widths, which say nothing of the heads."""
    from timm.layers.bottleneck_attn import BottleneckAttn

    attention = BottleneckAttn(8, 8, feat_size=(4, 4), num_heads=2, dim_head=4)
    return nn.Sequential(nn.Conv2d(3, 8, 1), attention, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


TWINS["bottleneck attention"] = (_bottleneck_attention, 4)


def _check(model: nn.Module, inputs: Any, kwargs: dict[str, Any] | None = None) -> None:
    graph = pg.compile(model.eval(), inputs, kwargs=kwargs)
    assert not [str(d) for d in graph.diagnostics if d.kind == "unknown-operation" or d.subject == "the whole network"]
    assert graph.symmetry.factors
    assert log_action(graph) == pytest.approx(graph.symmetry.log_order, rel=1e-9)
    found, declared = orbits(graph)
    assert found <= declared


@pytest.mark.parametrize("name", TWINS)
def test_vision_families(name: str) -> None:
    make, size = TWINS[name]
    _check(make(), torch.randn(2, 3, size, size))


@pytest.mark.parametrize("name", FAMILIES)
def test_language_families(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind, options = FAMILIES[name]
    cls = getattr(transformers, kind)
    config = cls.config_class(**{"vocab_size": 11, "num_hidden_layers": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **options})
    config.use_cache, config._experts_implementation = False, "batched_mm"
    _check(cls(config), None, {"input_ids": torch.randint(3, 11, (2, 7))})


class Joined(nn.Module):
    """Two readings of one hidden layer at indices, side by side: message passing over edges."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.message, self.down = nn.Linear(3, 5), nn.Linear(10, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.up(x))
        return self.down(torch.tanh(self.message(torch.cat([hidden[target], hidden[source]], 1))))


def test_both_ends_of_a_message_hold_the_same_channels() -> None:
    """A concatenation holds one space twice; what reaches one half must not pass for a link of the other."""
    _check(Joined(), (torch.randn(6, 3), torch.randint(0, 6, (7,)), torch.randint(0, 6, (7,))))


class Bordered(nn.Module):
    """Borders of zeros around an image, then a linear layer: what reads them may be exchanged, for each channel and line apart."""

    def __init__(self, border: tuple[int, ...]) -> None:
        super().__init__()
        self.border = border
        self.up, self.down = nn.Conv2d(2, 5, 1), nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.pad(torch.tanh(self.up(x)), self.border).flatten(1))


@pytest.mark.parametrize("border", [(1, 1, 1, 1), (0, 2, 0, 0), (0, 0, 2, 0), (0, 0, 0, 0, 0, 2)])
def test_what_is_filled_up_moves_apart_in_the_graph_too(border: tuple[int, ...]) -> None:
    model, images = Bordered(border).eval(), torch.randn(3, 2, 4, 4)
    model(images)
    _check(model, (images,))


def test_orbits_show_a_group_that_is_too_small_or_too_large() -> None:
    """Colour refinement against elements of one factor only, and against elements that mix two layers' units."""
    graph = pg.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(2, 3))
    found, declared = orbits(graph)
    assert found == declared
    group = graph.symmetry

    def seen(sample: Callable[..., Any]) -> Any:
        symmetry = SimpleNamespace(factors=group.factors, sample=sample)
        return SimpleNamespace(values=graph.values, node_sets=graph.node_sets, edge_sets=graph.edge_sets, symmetry=symmetry)

    classes, several = orbits(seen(lambda generator, kinds: group.sample(generator, factors=[0])))
    assert classes < several
    rolled = SimpleNamespace(act=lambda values: {name: v.roll(1, -1) for name, v in values.items()})
    with pytest.raises(AssertionError, match="tells apart"):
        orbits(seen(lambda generator, kinds: rolled))
