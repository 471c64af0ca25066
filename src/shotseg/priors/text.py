"""Maps of a photo from a class name: the visual-text prior (VTP) of PI-CLIP and the class maps of CLIP-ES.

Both are softmax Grad-CAMs of CLIP, spread along its attention; they differ in the prompts that compete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from shotseg.encoders.clip import Seen, VisionLanguage
from shotseg.errors import UsageError
from shotseg.priors import words
from shotseg.priors.clip_input import whole_patches
from shotseg.priors.grad_cam import scaled, text_cams
from shotseg.priors.refinement import CLIP_ES, PIR, AttentionRefinement

WORDS = words.read()
PHRASES = WORDS.phrases
RELEASED_PHRASES = PHRASES | {"snowboard": "sknowboard"}  # the slip of CLIP-ES, PI-CLIP and TLG
BACKGROUND = WORDS.background  # beside PASCAL's classes; beside others: WORDS.beside(names)


@dataclass(frozen=True)
class TextPrior:
    """Where a named class is in a photo, with a CLIP-like model and no training.

    foreground, background: templates. Every name that competes makes one prompt of each, unless there are ``words``.
    words:           background words that stand in the background prompts' place, in the foreground's template.
    phrases:         what to say for a class name; other names are said as they are.
    refinement:      how the map is spread along the attention; None (or a tower without attention) leaves the Grad-CAM.
    round_positions: pass CLIP's resized position table through float16, as the released code does.
    eight_bit:       resize the photo in 8 bits, as the released code does.
    missing_target:  what to do where the caller's list of known classes lacks the target: "include" it, or, as the
                     released code of PI-CLIP does, give a 64 x 64 map of 255 for one photo and refuse more ("saturate").
    """

    foreground: str = "a photo of {}."
    background: str = "a photo without {}."
    words: tuple[str, ...] = ()
    phrases: Mapping[str, str] = field(default_factory=lambda: PHRASES)
    refinement: AttentionRefinement | None = PIR
    round_positions: bool = False
    eight_bit: bool = False
    missing_target: Literal["include", "saturate"] = "include"

    def __call__(
        self,
        clip: VisionLanguage,
        images: Tensor,
        targets: Sequence[str],
        known: Sequence[Sequence[str]] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """One class a photo: images (B, 3, H, W) in [0, 1], B class names -> (B, 1, h, w) in [0, 1] on the patch grid.

        known: for every photo the classes that compete with its target; None = the target alone. Nothing else is known
               of a photo (the released code of PI-CLIP puts the query's true labels here).
        size:  (H, W) that the photos are brought to, rounded up to whole patches; default their own.
        """
        if known is not None and self.missing_target == "saturate":
            missing = [target not in names for target, names in zip(targets, known)]
            if any(missing) and len(targets) > 1:
                raise UsageError(f"{targets[missing.index(True)]!r} is not among its photo's known classes; add it")
            if any(missing):
                return images.new_full((1, 1, 64, 64), 255.0)
        maps = []
        for i, target in enumerate(targets):
            names = list(known[i]) if known is not None else [target]
            names = names if target in names else [*names, target]
            text = self.text(clip, names)
            maps.append(self.maps(clip, images[i : i + 1], text, [names.index(target)], size))
        return torch.cat(maps)

    def text(self, clip: VisionLanguage, names: Sequence[str]) -> Tensor:
        """The unit text features that compete: the names' prompts (row m is name m), then the background's."""
        phrases = [self.phrases.get(name, name) for name in names]
        if self.words:
            return clip.text([*phrases, *self.words], [self.foreground])
        return torch.cat([clip.text(phrases, [self.foreground]), clip.text(phrases, [self.background])])

    @property
    def layers(self) -> int:
        """Of how many of the deepest blocks the attention is read."""
        return 0 if self.refinement is None else self.refinement.last

    def maps(
        self,
        clip: VisionLanguage,
        images: Tensor,
        text: Tensor,
        rows: Sequence[int],
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """The maps of M rows of one set of text features, for every photo -> (B, M, h, w) in [0, 1]."""
        return self.maps_of_seen(clip, self.see(clip, images, size), text, rows)

    def see(self, clip: VisionLanguage, images: Tensor, size: tuple[int, int] | None = None) -> Seen:
        """What CLIP sees before its last block, for any number of :meth:`maps_of_seen` of different texts."""
        normalised = (whole_patches(images, clip.patch, size, self.eight_bit) - clip.mean) / clip.std
        return clip.tokens_and_attention(
            normalised,
            normalised=True,
            until_last=True,
            round_positions=self.round_positions,
            attention=self.layers,
        )

    def maps_of_seen(self, clip: VisionLanguage, seen: Seen, text: Tensor, rows: Sequence[int]) -> Tensor:
        """:meth:`maps` of what :meth:`see` gave."""
        last = clip.last_block(seen, text, attention=self.layers > 0)
        maps = scaled(text_cams(last, rows))
        if self.refinement is None or last.attention is None:
            return maps
        return self.refinement(maps, torch.stack([*seen.attention, last.attention]), seen.prefix)


VTP = TextPrior()
CLIP_ES_MAPS = TextPrior("a clean origami {}.", words=BACKGROUND, refinement=CLIP_ES)


def as_released(prior: TextPrior) -> TextPrior:
    """The same prior with the slips of the released code: box ends, phrases, rounding, 8-bit input, missing target."""
    refinement = prior.refinement and replace(prior.refinement, box_end="exclusive")
    return replace(
        prior,
        phrases=RELEASED_PHRASES,
        refinement=refinement,
        round_positions=True,
        eight_bit=True,
        missing_target="saturate",
    )
