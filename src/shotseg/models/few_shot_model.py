"""The contract of a model: what every name of ``list_models()`` answers, with the defaults, stated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from shotseg.data.samples import Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError

SHALLOW = 8  # maps of finer stride are read by few models, and would fill the disk in training

NO_NUMBERS = (
    "the network gives no numbers (NaN) for some photos, where nothing is found; its weights are none, train it anew"
)


class Model(nn.Module):
    """A network on an encoder, as callers see it; a class or an instance overrides what differs.

    geometry:        how a photo is brought to ``size``: "fit" (longer side), "squash" (a square) or "short" (shorter side).
    needs:           what a class is learnt from: "masks" with photos, "photos" and the name, or the "name" alone.
    asks:            keywords that ``forward`` wants beside the query: of "class_name", "present" and "sizes".
    masks_input:     supports are masked before the encoder, so their features come from ``encode_masked``, not ``encode``.
    finest:          stride of the finest map that is read; training need not keep finer ones.
    paired:          a training batch must hold pairs of photos, 2i with 2i + 1.
    learns:          it must be trained before it means something, on ``loss``.
    rests:           a step may leave some of what learns without a gradient, which several processes must know of.
    encoder_bn:      "eval", or "train": batch statistics of the encoder follow the training images.
    encoder_learned: the encoder changed in training, so that a checkpoint holds it too.
    """

    encoder: Encoder
    size: int
    geometry: str = "fit"
    needs: str = "masks"
    asks: tuple[str, ...] = ()
    masks_input: bool = False
    finest: int = SHALLOW
    paired: bool = False
    learns: bool = True
    rests: bool = False
    encoder_bn: str = "eval"
    encoder_learned: bool = False

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) float32 in [0, 1] -> all that depends on the photo alone, made once per photo."""
        return self.encoder(images)


class FewShot(Model):
    """A model that learns a class from a support: ``model(query, support, images) -> Prediction``.

    A support of batch 1 serves every query of a batch; any other batch but the queries' own is a UsageError.

    at_once: ``evidence`` finds several classes at once; where they are many, only the likeliest are asked for.
    """

    at_once: bool = False

    def __call__(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        return super().__call__(query, self.serving(support, len(query.maps[0])), images, **context)

    def forward(self, query: Features, support: Support, images: Tensor, **context: Any) -> Prediction:
        """Logits (B, 2, h, w) float32, background then foreground, of any h and w.

        query: ``encode(images)``.   support: of :meth:`encode_support`.   images: (B, 3, H, W) float32 in [0, 1].
        context: what the model ``asks``, and what only some models read, as ``class_id``.
        """
        raise NotImplementedError

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Support:
        """images (B, K, 3, H, W) in [0, 1], masks (B, K, H, W) int64 in {0, 1, 255} -> tensors (B, K, ...).

        features: ``encode`` of the B K images, if known.   class_names: B names, for a model that reads them.
        """
        raise NotImplementedError

    def merge(self, supports: list[Support]) -> Support:
        """Several supports of one class as one with all their shots."""
        return Support.join(supports)

    def evidence(
        self, query: Features, supports: Sequence[Support], survey: Any = None, before: Sequence[Any] = ()
    ) -> Tensor:
        """(M, h, w) log odds of M classes in one photo, as it is; only of a model that finds them ``at_once``.

        survey: of :meth:`survey`, where the photo is a window of a larger image.
        before: for each class a dict in which the model finds what it left there when fewer shots of the class were known.
        """
        raise NotImplementedError

    def prepare(self, query: Features) -> None:
        """Make what :meth:`evidence` asks of the photo whatever the classes are; ``query`` keeps it."""

    def survey(self, query: Features, supports: Sequence[Support]) -> Any:
        """What the evidence for M classes in a window takes from the whole image, which ``query`` stands for; None where
        nothing is relative to the photo."""
        return None

    def along_the_edges(self, evidence: Tensor, images: Tensor) -> Tensor:
        """The log odds (M, h, w) as they are drawn in a photo (1, 3, H, W), of any h and w."""
        return evidence

    def serving(self, support: Support, batch: int) -> Support:
        """The support for ``batch`` queries. Raises UsageError where the batches do not fit."""
        given = len(next(iter(support.tensors.values())))
        if given == batch:
            return support
        if given != 1:
            raise UsageError(f"a support of batch {given} for {batch} queries: give one for each query, or one for all")
        return Support({name: x.expand(batch, *x.shape[1:]) for name, x in support.tensors.items()})
