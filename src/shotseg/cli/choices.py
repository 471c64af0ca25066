"""What ``shotseg list`` says of each model, encoder and data set: what it needs, what it costs, when to take it."""

from __future__ import annotations

from typing import Literal

Runtime = Literal[
    "auto", "torch", "onnxruntime", "onnxruntime-int8"
]  # as shotseg.encoders.runtime has them; importing that takes seconds

TRAINED = "masks of base classes to train on, then examples"

# name -> (needs, cost, when to take it)
MODELS = {
    "matching": ("examples with masks, or with names", "no training", "the default: your own classes, few examples"),
    "pfenet": (TRAINED, "a training", "a trained baseline, one backbone"),
    "bam": (TRAINED, "a training, of a base learner first", "base classes that also occur in your photos"),
    "hdmnet": (TRAINED, "a training, of a base learner first", "as bam, with a transformer that matches pixels"),
    "pi-clip": (TRAINED + "; CLIP", "a training, a download", "classes whose names CLIP knows"),
    "pi-clip-priors": ("examples with masks; CLIP", "no training, a download", "what CLIP's priors alone are worth"),
    "pi-clip-zero-shot": ("the class name alone; CLIP", "no training, a download", "no example at all"),
    "qgnet": (TRAINED + "; photos without labels", "a training, of priors first", "many photos that nobody labelled"),
    "hsnet": (TRAINED, "a training", "few weights: it learns from correlations alone"),
    "tlg": ("photos and names, masks in training alone", "a training", "examples without masks"),
    "cst": ("photos and names, no mask anywhere", "a training", "several classes at once, each perhaps absent"),
    "corenet": ("photos and names, no mask anywhere", "a training", "a reconstruction: for comparison"),
    "guided": (TRAINED, "a training", "pfenet's task on a CPU, with matching's evidence"),
    "maskformer": ("masks of all its classes to train on", "a training", "a fixed list of classes, no examples"),
    "simformer": (
        "masks of base classes, tags of the others",
        "a training",
        "a fixed list, some of it without masks",
    ),
}

# name -> (cost, when to take it); what one needs is told by where its weights come from
ENCODERS = {
    "efficientnet-lite0": ("5 M weights, stride 32", "offline, the default of trained methods and of --fast"),
    "efficientnet-lite2": ("6 M weights, stride 32", "offline, the default of matching"),
    "efficientnet-lite0-blocks": ("5 M weights, stride 32", "the default of hsnet and tlg: a map a block"),
    "resnet50": ("26 M weights, stride 32", "hsnet, tlg and cst as published"),
    "resnet101": ("45 M weights, stride 32", "hsnet as published, with a deeper network"),
    "vgg16": ("15 M weights, stride 32", "hsnet as published"),
    "vgg16-bn": ("15 M weights, stride 16", "pfenet and bam as published"),
    "resnet50-v2": ("24 M weights, stride 8", "pfenet, bam, hdmnet and pi-clip as published"),
    "resnet101-v2": ("43 M weights, stride 8", "pfenet as published with a deeper network"),
    "dino-vits8": ("22 M weights, patch 8", "fine maps: four times the tokens of vits16"),
    "dino-vits16": ("22 M weights, patch 16", "a light ViT, learnt without labels"),
    "dino-vitb8": ("86 M weights, patch 8", "as vits8, larger"),
    "dino-vitb16": ("86 M weights, patch 16", "as vits16, larger"),
    "dinov2-vits14": ("22 M weights, patch 14", "strong features, where a download is no trouble"),
    "dinov2-vitb14": ("87 M weights, patch 14", "as vits14, larger"),
    "dinov3-vits16": ("22 M weights, patch 16", "as dinov2, where its licence suits you"),
    "dinov3-vitb16": ("86 M weights, patch 16", "as dinov3-vits16, larger"),
    "clip-vit-b16": ("150 M weights, patch 16", "the methods that read class names"),
    "clip-vit-b32": ("151 M weights, patch 32", "as b16, on fewer tokens"),
    "clip-rn50": ("102 M weights, stride 32", "pi-clip's other backbone"),
}
NEEDS = {
    "package": "nothing",
    "hub": "a download",
    "url": "a download",
    "open_clip": "a download",
    "local": "a file of yours",
}

# name -> (what to put down, classes, when to take it)
DATASETS = {
    "pascal5i": ("2 archives, --download", "20 classes", "the few-shot benchmark that most papers report"),
    "coco20i": ("3 archives, --download", "80 classes", "the larger few-shot benchmark"),
    "fss1000": ("1 archive, by hand", "1000 classes", "few photos each, one mask a photo"),
    "lvis92i": ("3 archives, --download", "92 classes a fold", "few-shot with rare classes"),
    "coco_stuff10k": ("1 archive, --download", "171 classes", "weak-shot: masks of some classes, tags of others"),
    "ade20k150": ("1 archive, --download", "150 classes", "weak-shot on scenes"),
    "isic": ("2 archives, --download", "3 classes", "cross-domain: skin lesions"),
    "chest_xray": ("a folder, by hand", "1 class", "cross-domain: lungs"),
    "deepglobe": ("a folder, by hand", "6 classes", "cross-domain: land cover from above"),
    "suim": ("2 folders, by hand", "7 classes", "cross-domain: under water"),
    "folder": ("images/<class>/, masks/<class>/", "your classes", "your own photos"),
}
