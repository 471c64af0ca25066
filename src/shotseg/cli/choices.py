"""What ``shotseg list`` says of each model, encoder and data set: what it needs, what it costs, when to take it."""

from __future__ import annotations

TRAINED = "masks of base classes to train on, then examples"

# name -> (needs, cost, when to take it)
MODELS = {
    "matching": ("examples with masks, or with names", "no training", "the default: your own classes, few examples"),
    "pfenet": (TRAINED, "hours on a GPU", "a light trained baseline"),
    "bam": (TRAINED, "hours on a GPU, a base learner first", "base classes that also occur in your photos"),
    "hdmnet": (TRAINED, "hours on a GPU, a base learner first", "more accurate than bam, and slower"),
    "pi-clip": (TRAINED + "; CLIP", "hours on a GPU, a download", "classes that CLIP knows by name"),
    "pi-clip-priors": ("examples with masks; CLIP", "no training, a download", "what CLIP's priors alone are worth"),
    "pi-clip-zero-shot": ("the class name alone; CLIP", "no training, a download", "no example at all"),
    "qgnet": (TRAINED + "; photos without labels", "priors are learnt first", "many photos that nobody labelled"),
    "hsnet": (TRAINED, "hours on a GPU", "fine structures, few weights"),
    "tlg": ("photos and names, masks in training alone", "hours on a GPU", "examples without masks"),
    "cst": ("photos and names, no mask anywhere", "hours on a GPU", "several classes at once, each perhaps absent"),
    "corenet": ("photos and names, no mask anywhere", "hours on a GPU", "a reconstruction: for comparison"),
    "guided": (TRAINED, "minutes on 2 cores", "training on your own photos without a GPU"),
    "maskformer": ("masks of all its classes to train on", "hours on a GPU", "a fixed list of classes, no examples"),
    "simformer": (
        "masks of base classes, tags of the others",
        "hours on a GPU",
        "a fixed list, some of it without masks",
    ),
}

# name -> when to take it; needs and cost are in the table of weights
ENCODERS = {
    "efficientnet-lite0": ("5 M weights, stride 32", "the default of most methods, offline"),
    "efficientnet-lite2": ("6 M weights, stride 32", "offline, a little stronger than lite0"),
    "efficientnet-lite0-blocks": ("5 M weights, stride 32", "the default of hsnet and tlg: a map a block"),
    "resnet50": ("26 M weights, stride 32", "hsnet, tlg and cst as published"),
    "resnet101": ("45 M weights, stride 32", "hsnet as published, twice resnet50's time"),
    "vgg16": ("15 M weights, stride 32", "hsnet as published"),
    "vgg16-bn": ("15 M weights, stride 16", "pfenet and bam as published"),
    "resnet50-v2": ("24 M weights, stride 8", "pfenet, bam, hdmnet and pi-clip as published"),
    "resnet101-v2": ("43 M weights, stride 8", "pfenet as published with a deeper network"),
    "dino-vits8": ("22 M weights, patch 8", "fine edges; slow: four times the tokens of vits16"),
    "dino-vits16": ("22 M weights, patch 16", "a light ViT, learnt without labels"),
    "dino-vitb8": ("86 M weights, patch 8", "the finest maps, the slowest"),
    "dino-vitb16": ("86 M weights, patch 16", "as vits16, larger"),
    "dinov2-vits14": ("22 M weights, patch 14", "the first to try where downloads work"),
    "dinov2-vitb14": ("87 M weights, patch 14", "stronger than vits14, four times its time"),
    "dinov3-vits16": ("22 M weights, patch 16", "as dinov2, where its licence suits you"),
    "dinov3-vitb16": ("86 M weights, patch 16", "as dinov3-vits16, larger"),
    "clip-vit-b16": ("150 M weights, patch 16", "the methods that read class names"),
    "clip-vit-b32": ("151 M weights, patch 32", "as b16, faster and coarser"),
    "clip-rn50": ("102 M weights, stride 32", "pi-clip's other backbone"),
}
NEEDS = {
    "package": "nothing",
    "hub": "a download",
    "url": "a download",
    "open_clip": "a download",
    "local": "a file of yours",
}

# name -> (archives, size, when to take it)
DATASETS = {
    "pascal5i": ("2 archives, --download", "3 GB", "the first few-shot benchmark to report"),
    "coco20i": ("3 archives, --download", "20 GB", "the harder few-shot benchmark"),
    "fss1000": ("1 archive, by hand", "1 GB", "many small classes, one mask a photo"),
    "lvis92i": ("3 archives, --download", "20 GB", "rare classes"),
    "coco_stuff10k": ("1 archive, --download", "2 GB", "weak-shot: masks of some classes, tags of others"),
    "ade20k150": ("1 archive, --download", "1 GB", "weak-shot on scenes"),
    "isic": ("2 archives, --download", "10 GB", "cross-domain: skin lesions"),
    "chest_xray": ("a folder, by hand", "5 GB", "cross-domain: lungs"),
    "deepglobe": ("a folder, by hand", "3 GB", "cross-domain: land cover from above"),
    "suim": ("2 folders, by hand", "1 GB", "cross-domain: under water"),
    "folder": ("images/<class>/, masks/<class>/", "yours", "your own photos"),
}
