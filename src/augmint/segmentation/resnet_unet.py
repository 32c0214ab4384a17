"""A U-Net whose encoder is ResNet-50 (He et al., CVPR 2016), of any width."""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)


class ResNetUNet(nn.Module):
    """MONAI's ResNet-50 with the decoder of its FlexibleUNet, which knows one width only.

    Weights are fresh. The full resolution has no skip connection, as in FlexibleUNet.

    Args:
        dims: Spatial axes, 2 or 3.
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        width: Channels of the encoder's first level, a multiple of 4; 64 is ResNet-50 as
            published.
        norm: MONAI's name or (name, arguments) of the decoder's norm; the encoder is born with
            batch norm, whatever its constructor is asked for.
    """

    def __init__(
        self,
        *,
        dims: int,
        in_channels: int,
        out_channels: int,
        width: int,
        norm: tuple[str, dict[str, bool]] | str,
    ) -> None:
        super().__init__()
        from monai.networks.nets.flexible_unet import SegmentationHead, UNetDecoder
        from monai.networks.nets.resnet import ResNet

        self.encoder = ResNet(
            "bottleneck",
            layers=list(BLOCKS),
            block_inplanes=[width, 2 * width, 4 * width, 8 * width],
            spatial_dims=dims,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.decoder = UNetDecoder(
            spatial_dims=dims,
            encoder_channels=(in_channels, width, 4 * width, 8 * width, 16 * width, 32 * width),
            decoder_channels=(4 * width, 2 * width, width, width // 2, width // 4),
            act=("relu", {"inplace": True}),
            norm=norm,
            dropout=0.0,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",
            align_corners=None,
            is_pad=False,
        )
        self.head = SegmentationHead(
            spatial_dims=dims, in_channels=width // 4, out_channels=out_channels
        )

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, *spatial), sides multiples of 32, to logits (B, K, *spatial)."""
        encoder = self.encoder
        levels = [image, encoder.act(encoder.bn1(encoder.conv1(image)))]
        x: Tensor = encoder.maxpool(levels[-1])
        for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
            x = layer(x)
            levels.append(x)
        logits: Tensor = self.head(self.decoder(levels, skip_connect=len(levels) - 2))
        return logits
