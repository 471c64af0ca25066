"""Frozen CNN encoders: any timm network with maps by stage, every block of torchvision's ResNet and VGG, and BAM's backbones.

For all of them ``encoder.last_stage(features.maps[encoder.before_last])`` equals ``features.maps[-1]``; a timm network whose
modules do not lie side by side has no last stage.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg
from torchvision.models.resnet import Bottleneck

from shotseg.encoders import contract
from shotseg.encoders import weights as table
from shotseg.encoders.features import Encoder, Features


class TimmCNN(Encoder):
    """Any timm network with maps, one a stage or block, that takes photos of any size (see timm for each one's paper).

    Maps: what timm lists in ``feature_info``, in the layout that timm's ``forward_intermediates`` brings to NCHW. A network
    that wants sides of a multiple of ``patch`` sees the photo cut to that.
    """

    net: Any
    convolutional = True
    cuts = False
    proven = False  # whether what is tried here is known of the network

    def __init__(self, row: table.Weights, weights: str = "default"):
        super().__init__(row.mean, row.std)
        self.name = row.name
        self.net = _any_size(row.model).eval()
        taps = list(self.net.feature_info)
        self.strides = tuple(tap["reduction"] for tap in taps)
        self.channels = tuple(tap["num_chs"] for tap in taps)
        self.patch = max(self.strides)
        self._modules_tapped = [tap["module"] for tap in taps]
        if not self.proven:
            self.cuts = bool(contract.fault(self, contract.ODD))
            contract.check(self)
        self._has_last_stage = self.proven or self._last_stage_fits()
        if weights != "random":
            path = table.resolve(row, weights)
            table.load_strictly(self.net, self._own_names(table.read(path)), path)

    def _own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return table.timm_names(self.net, state)

    def extract(self, normalised: Tensor) -> Features:
        if self.cuts:
            height, width = (side // self.patch * self.patch for side in normalised.shape[-2:])
            normalised = normalised[..., :height, :width]
        maps = self.net.forward_intermediates(normalised, intermediates_only=True, output_fmt="NCHW")
        return Features(tuple(maps), self.strides)

    def last_stage(self, tap: Tensor) -> Tensor:
        """The last map (B, C, h', w') of a (masked) map of the stage before (B, C_before, h, w)."""
        return self._stages_after(tap) if self._has_last_stage else super().last_stage(tap)

    def _stages_after(self, tap: Tensor) -> Tensor:
        (before, first), (_, last) = (name.rpartition(".")[::2] for name in self._modules_tapped[-2:])
        children = dict(self.net.get_submodule(before).named_children())
        names = list(children)
        channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        tap = tap.permute(0, 2, 3, 1) if channels_last else tap
        for name in names[names.index(first) + 1 : names.index(last) + 1]:
            tap = children[name](tap)
        return tap.permute(0, 3, 1, 2) if channels_last else tap

    @torch.no_grad()
    def _last_stage_fits(self) -> bool:
        """Whether the modules between the last two taps make the last map of the one before it, as in most CNNs."""
        maps = self.extract(contract.trial(contract.WHOLE, self.mean.device)).maps
        try:
            return torch.allclose(self._stages_after(maps[self.before_last]), maps[-1], rtol=1e-3, atol=1e-5)
        except Exception:  # modules that want more than the map, or do not lie side by side
            return False


def _any_size(model: str) -> Any:
    """A timm network, told to take any size where it has to be told."""
    try:
        return timm.create_model(model, dynamic_img_size=True)
    except TypeError:  # an unknown keyword, as of every CNN
        return timm.create_model(model)


class EfficientNetLite(TimmCNN):
    """ImageNet EfficientNet-Lite (Tan and Le 2019, no squeeze-excitation) with its classifier; the offline encoders.

    Maps: the block stages at strides 2, 4, 8, 16, 32; of Lite0 with 16, 24, 40, 112, 320 channels, of Lite2 with 16, 24, 48,
    120, 352.
    """

    proven = True  # a test tries them

    def _own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        # The packaged file names its tensors otherwise; their order is timm's, which the shapes then confirm.
        if "_conv_stem.weight" not in state or len(state) != len(self.net.state_dict()):
            return state
        return dict(zip(self.net.state_dict(), state.values()))

    def embedding(self, last: Tensor) -> Tensor:
        """The 1280 maps (B, 1280, h, w) before the classifier, of the stride-32 map; a region is embedded as their mean."""
        return self.net.bn2(self.net.conv_head(last))

    def labels(self, embedding: Tensor) -> Tensor:
        """ImageNet logits (N, 1000) of embeddings (N, 1280)."""
        return F.linear(embedding, self.net.classifier.weight, self.net.classifier.bias)

    def classifier(self, last: Tensor) -> Tensor:
        """ImageNet class activation maps (B, 1000, h, w) of the stride-32 map (Zhou et al. 2016).

        Their spatial mean is the logit.
        """
        return F.conv2d(self.embedding(last), self.net.classifier.weight[:, :, None, None], self.net.classifier.bias)


class EveryBlockEfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0 with a map for every block from stride 8 on, as HSNet and TLG compare them.

    Maps: 2 of 40 channels at stride 8, 3 of 80 and 3 of 112 at 16, 4 of 192 and 1 of 320 at 32.
    """

    def __init__(self, row: table.Weights, weights: str = "default"):
        super().__init__(row, weights)
        blocks = [(s, b, block) for s, stage in enumerate(self.net.blocks) for b, block in enumerate(stage) if s > 1]
        self._modules_tapped = [f"blocks.{stage}.{block}" for stage, block, _ in blocks]
        self.channels = tuple(block.conv_pwl.out_channels for *_, block in blocks)
        self.strides = (8,) * 2 + (16,) * 6 + (32,) * 5
        self.before_last = -6

    def extract(self, normalised: Tensor) -> Features:
        maps: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
            maps[name] = output

        hooks = [
            self.net.get_submodule(name).register_forward_hook(functools.partial(keep, name))
            for name in self._modules_tapped
        ]
        try:
            self.net.forward_features(normalised)
        finally:
            for hook in hooks:
                hook.remove()
        return Features(tuple(maps[name] for name in self._modules_tapped), self.strides)

    def last_stage(self, tap: Tensor) -> Tensor:
        """The blocks at stride 32 on a (masked) map of the last one at stride 16."""
        return self.net.blocks[5:](tap)


class EveryBlockResNet(Encoder):
    """torchvision ResNet-50 or -101: the residual sum of every bottleneck of stages 2-4 before its ReLU (HSNet, TLG).

    Maps of ResNet-50: 4 of 512 channels at stride 8, 6 of 1024 at 16, 3 of 2048 at 32. ``levels``: maps a stage.
    """

    net: Any
    convolutional = True

    def __init__(self, row: table.Weights, weights: str = "default"):
        super().__init__(row.mean, row.std)
        self.name = row.name
        self.net = getattr(torchvision.models, row.name)(weights=None)
        stages = (self.net.layer2, self.net.layer3, self.net.layer4)
        self.levels = tuple(len(stage) for stage in stages)
        self.strides = (8,) * self.levels[0] + (16,) * self.levels[1] + (32,) * self.levels[2]
        self.channels = (512,) * self.levels[0] + (1024,) * self.levels[1] + (2048,) * self.levels[2]
        self.before_last = -self.levels[2] - 1
        if weights != "random":
            path = table.resolve(row, weights)
            table.load_strictly(self.net, table.read(path), path)

    def extract(self, normalised: Tensor) -> Features:
        x = self.net.relu(self.net.bn1(self.net.conv1(normalised)))
        x, maps = self.net.layer1(self.net.maxpool(x)), []
        for stage in (self.net.layer2, self.net.layer3, self.net.layer4):
            for block in stage:
                maps.append(_residual_sum(block, x))
                x = maps[-1].relu()
        return Features(tuple(maps), self.strides)

    def last_stage(self, tap: Tensor) -> Tensor:
        """Stage 4 on a (masked) sum of the last block of stage 3: (B, 1024, h, w) -> (B, 2048, h/2, w/2)."""
        for block in self.net.layer4:
            tap = _residual_sum(block, tap.relu())
        return tap


def _residual_sum(block: Any, x: Tensor) -> Tensor:
    out = block.bn1(block.conv1(x)).relu()
    out = block.bn2(block.conv2(out)).relu()
    out = block.bn3(block.conv3(out))
    return out + (x if block.downsample is None else block.downsample(x))


class EveryConvVGG16(Encoder):
    """torchvision VGG-16: the convolutions 4_1 to 5_3 before their ReLU and the last max-pool (HSNet, TLG).

    Maps: 3 of 512 channels at stride 8, 3 at 16, 1 at 32. ``levels``: maps a stride.
    """

    convolutional = True
    strides = (8, 8, 8, 16, 16, 16, 32)
    channels = (512,) * 7
    levels = (3, 3, 1)
    before_last = 2
    _taps = (17, 19, 21, 24, 26, 28, 30)

    def __init__(self, row: table.Weights, weights: str = "default"):
        super().__init__(row.mean, row.std)
        self.name = row.name
        self.features = _vgg16_features(batch_norm=False)
        if weights != "random":
            path = table.resolve(row, weights)
            table.load_strictly(self, _without(table.read(path), "classifier."), path)

    def extract(self, normalised: Tensor) -> Features:
        x, maps = normalised, []
        for i, module in enumerate(self.features):
            x = module(x)
            if i in self._taps:
                maps.append(x)
        return Features(tuple(maps), self.strides)

    def last_stage(self, tap: Tensor) -> Tensor:
        """Stage 5 with its pools on a (masked) conv4_3 map: (B, 512, h, w) -> (B, 512, h/4, w/4)."""
        return self.features[self._taps[self.before_last] + 1 :](tap)


def _vgg16_features(batch_norm: bool) -> nn.Sequential:
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm)
    for module in features:
        if isinstance(module, nn.ReLU):
            module.inplace = False  # a tap is read after its ReLU has run
    return features


def _without(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


class _Stages(Encoder):
    """layer0 to layer4 in a row, one map each, under the names that PFENet, BAM, HDMNet and PI-CLIP publish."""

    layer4: nn.Sequential
    convolutional = True

    def __init__(self, row: table.Weights):
        super().__init__(row.mean, row.std)
        self.name = row.name

    def _load(self, row: table.Weights, weights: str) -> None:
        if weights != "random":
            path = table.resolve(row, weights)
            table.load_strictly(self, self._published_names(table.read(path)), path)

    def _published_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A few-shot checkpoint's backbone, or the file of the ImageNet classifier, under our names."""
        if "layer0.0.weight" in state:
            return {name: tensor for name, tensor in state.items() if name.startswith("layer")}
        return self._classifier_names(state)

    def _classifier_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def extract(self, normalised: Tensor) -> Features:
        x, maps = normalised, []
        for stage in (self.get_submodule(f"layer{i}") for i in range(5)):
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), self.strides)

    def last_stage(self, tap: Tensor) -> Tensor:
        """layer4 on a (masked) layer3 map of the same size."""
        return self.layer4(tap)


class DilatedResNet50(_Stages):
    """ResNet-50 "v2" of PFENet and BAM: a stem of three 3x3 convolutions, dilation 2 in layer3 and 4 in layer4.

    Maps: layer0 (after the max-pool) to layer4, channels 128, 256, 512, 1024, 2048; at 473 px 119, 119, 60, 60, 60.
    """

    strides = (4, 4, 8, 8, 8)
    channels = (128, 256, 512, 1024, 2048)
    patch = 8
    layer3_blocks = 6
    _stem: ClassVar = {
        "conv1": "layer0.0",
        "bn1": "layer0.1",
        "conv2": "layer0.3",
        "bn2": "layer0.4",
        "conv3": "layer0.6",
        "bn3": "layer0.7",
    }

    def __init__(self, row: table.Weights, weights: str = "default"):
        super().__init__(row)
        convolutions = ((3, 64, 2), (64, 64, 1), (64, 128, 1))
        stem = [
            module
            for inputs, outputs, stride in convolutions
            for module in (nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        ]
        self.layer0 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        self.layer1 = _bottlenecks(128, 64, 3)
        self.layer2 = _bottlenecks(256, 128, 4, stride=2)
        self.layer3 = _bottlenecks(512, 256, self.layer3_blocks, dilation=2)
        self.layer4 = _bottlenecks(1024, 512, 3, dilation=4)
        self._load(row, weights)

    def _classifier_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for name, tensor in _without(state, "fc.").items():
            first, _, rest = name.partition(".")
            named[f"{self._stem.get(first, first)}.{rest}"] = tensor
        return named


class DilatedResNet101(DilatedResNet50):
    """ResNet-101 "v2" of PFENet: the same with 23 blocks in layer3."""

    layer3_blocks = 23


def _bottlenecks(inputs: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    shortcut = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
    first = Bottleneck(inputs, width, stride, shortcut, dilation=dilation)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, dilation=dilation) for _ in range(blocks - 1)))


class SlicedVGG16BN(_Stages):
    """VGG-16 with batch norm in BAM's five slices (``features`` 0-6, 7-13, 14-23, 24-33, 34-42), pools in ceil mode.

    Maps: channels 64, 128, 256, 512, 512; at 473 px 237, 119, 60, 30, 30 wide.
    """

    strides = (2, 4, 8, 16, 16)
    channels = (64, 128, 256, 512, 512)
    patch = 16
    _starts = (0, 7, 14, 24, 34, 43)

    def __init__(self, row: table.Weights, weights: str = "default"):
        super().__init__(row)
        features = _vgg16_features(batch_norm=True)
        for module in features:
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = True
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*features[start:end]) for start, end in zip(self._starts, self._starts[1:])
        )
        self._load(row, weights)

    def _classifier_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for name, tensor in _without(state, "classifier.").items():
            number, _, leaf = name.removeprefix("features.").partition(".")
            if not number.isdigit():
                return state  # another network's file: the strict loading names what is wrong
            layer = max(i for i, start in enumerate(self._starts) if start <= int(number))
            named[f"layer{layer}.{int(number) - self._starts[layer]}.{leaf}"] = tensor
        return named
