#!/usr/bin/env python3
"""Pixels that `preprocessor_config.json` asks for: goldens/graphs/preprocessing.json. Needs Pillow and numpy.

As the image processors of `transformers` work: resize by Pillow, crop the center, multiply, subtract the mean, divide by the deviation.
"""
import json, pathlib

import numpy as np
from PIL import Image

graphs = pathlib.Path(__file__).resolve().parent / "graphs"
image = Image.open(graphs / "pictures/large.png")  # 45 x 31
square, n = {"height": 16, "width": 16}, 16
cases = [
    {"do_resize": True, "size": square, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    {"do_resize": True, "size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": square, "resample": 3, "image_mean": [0.4, 0.5, 0.6],
     "image_std": [0.2, 0.3, 0.4]},
    {"size": 18, "do_center_crop": True, "crop_size": 16, "do_normalize": False},
    {"size": square, "do_rescale": False, "image_mean": [100, 110, 120], "image_std": [50, 60, 70]},
    {"size": square, "rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3},
]
found = []
for c in cases:
    (w, h), shorter = image.size, c["size"] if isinstance(c["size"], int) else c["size"].get("shortest_edge")
    side = (n, n) if not c.get("do_center_crop") else (shorter * w // h, shorter)
    small = image.resize(side, Image.Resampling.BICUBIC if c.get("resample") == 3 else Image.Resampling.BILINEAR)
    left, top = (side[0] - n) // 2, (side[1] - n) // 2
    x = np.asarray(small.crop((left, top, left + n, top + n)), np.float64)
    x = x * (1 if c.get("do_rescale") is False else c.get("rescale_factor", 1 / 255))
    if c.get("do_normalize", True):
        x = (x - c["image_mean"]) / c["image_std"]
    found.append({"config": c, "pixels": [round(v, 5) for v in x.transpose(2, 0, 1).ravel().tolist()]})
(graphs / "preprocessing.json").write_text(json.dumps(found))
