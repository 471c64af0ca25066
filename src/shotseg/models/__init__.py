"""Few-shot models by name. Each is one file that reads like its paper."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module
from typing import Any

from shotseg import plugins
from shotseg.arguments import check, checked
from shotseg.encoders.features import Encoder
from shotseg.errors import UsageError, did_you_mean, first_line, is_out_of_memory, one_of

_HOME = {
    "matching": ("shotseg.models.matching", "Matching"),
    "pfenet": ("shotseg.models.pfenet", "PFENet"),
    "bam": ("shotseg.models.bam", "BAM"),
    "hdmnet": ("shotseg.models.hdmnet", "HDMNet"),
    "pi-clip": ("shotseg.models.pi_clip", "PICLIP"),
    "pi-clip-priors": ("shotseg.models.pi_clip_priors", "ClipPriorsOnly"),
    "pi-clip-zero-shot": ("shotseg.models.pi_clip_priors", "ClipZeroShot"),
    "qgnet": ("shotseg.models.qgnet", "QGNet"),
    "hsnet": ("shotseg.models.hsnet", "HSNet"),
    "tlg": ("shotseg.models.tlg", "TLG"),
    "cst": ("shotseg.models.cst", "CST"),
    "corenet": ("shotseg.models.corenet", "CORENet"),
    "guided": ("shotseg.models.guided", "Guided"),
    "maskformer": ("shotseg.models.maskformer", "MaskFormer"),
    "simformer": ("shotseg.models.simformer", "SimFormer"),
}

SEMANTIC = ("maskformer", "simformer")  # no examples: trained for their classes, they label every pixel
_ENCODER = {"pi-clip-priors": "clip-vit-b16", "pi-clip-zero-shot": "clip-vit-b16"}
_ENCODER |= {"matching": "efficientnet-lite2"}
_ENCODER |= {"hsnet": "efficientnet-lite0-blocks", "tlg": "efficientnet-lite0-blocks"}


def list_models() -> list[str]:
    """The names that :func:`load` takes: ours, then those that other packages add."""
    return list(_HOME | plugins.added("methods"))


def kind(name: str) -> Any:
    """The class of a method. Raises UsageError for an unknown name."""
    if isinstance(name, str) and name in _HOME:
        module, cls = _HOME[name]
        return getattr(import_module(module), cls)
    if isinstance(name, str) and name in plugins.added("methods"):
        from shotseg.models.few_shot_model import Model

        return plugins.held("methods", name, Model, plugins.load("methods", name))
    raise UsageError(f"unknown method {name!r}{one_of(name, list_models())}")


@checked
def encoder_for(name: str) -> str:
    """The encoder that "auto" stands for: the one that needs no download, unless the model is made of another."""
    return _ENCODER.get(name, "efficientnet-lite0")


def load(name: str, encoder: Encoder, **options: Any) -> Any:
    """The model ``name`` on a frozen encoder; ``options`` are the keywords of its class.

    Raises UsageError for an unknown name or option, and for what is no encoder.
    """
    cls = kind(name)
    if not hasattr(encoder, "strides"):
        mend = f"shotseg.encoders.load({encoder!r})" if isinstance(encoder, str) else "what shotseg.encoders.load gives"
        raise UsageError(f"encoder: of type {type(encoder).__name__}; give {mend}")
    try:
        check(cls, encoder, **options)
        model = cls(encoder, **options)
        if not all(parameter.numel() for parameter in model.parameters()):
            raise ValueError("a layer has no channels")
        return model
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        known = inspect.signature(cls).parameters
        unknown = next((option for option in options if option not in known), "")
        see = did_you_mean(unknown, known) or f"; see its class {cls.__name__} for the options"
        raise UsageError(f"method {name!r} has no option {unknown!r}{see}") from None
    except (RuntimeError, ValueError, ArithmeticError, AssertionError, IndexError) as error:
        if not options or is_out_of_memory(error):
            raise
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise UsageError(f"method {name!r}: no network can be made of {given} ({first_line(error)})") from error


def must_learn(name: str, alone: bool = False) -> bool:
    """Whether a model must be trained. alone: and has nothing to answer with before, where others have pseudo masks."""
    model = kind(name)
    return model.learns and not (alone and model.needs == "photos")


def warn_untrained(name: str, model: Any) -> bool:
    """Whether a model must learn before its masks mean something; says so. For one that comes from no checkpoint."""
    if not must_learn(name):
        return False
    names_do = model.needs == "photos"
    meanwhile = "until then it answers with pseudo masks" if names_do else "until then its masks mean nothing"
    warnings.warn(f"{name} has learnt nothing yet: give the checkpoint of `shotseg train`; {meanwhile}", stacklevel=3)
    return True
