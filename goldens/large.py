#!/usr/bin/env python3
"""Networks too large to keep beside the tests: torchvision's AlexNet, VGG-11 and VGG-11 with norms, random weights, one picture.

Needs torch, torchvision and Pillow. Prints how far the probabilities of `nnz predict` lie from PyTorch's; ends with 1 if one is beyond
1e-4 of the largest.

    goldens/large.py target/release/nnz
"""
import json, pathlib, subprocess, sys, tempfile

import numpy as np
import torch
import torchvision
from PIL import Image

torch.manual_seed(0)
torch.set_grad_enabled(False)
program, far = sys.argv[1], 0.0
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "x.png")
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor(((pixels / 255 - mean) / deviation).transpose(2, 0, 1)[None], dtype=torch.float32)
    for name in ("alexnet", "vgg11", "vgg11_bn"):
        net = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
        for p in net.parameters():
            if p.ndim > 1:  # So that the classes differ.
                torch.nn.init.kaiming_normal_(p, nonlinearity="relu")
        torch.save(net.state_dict(), folder / "net.pth")
        want = net(x).softmax(-1)[0].numpy()
        said = subprocess.run([program, "predict", folder / "net.pth", folder / "x.png", "--json"], capture_output=True, text=True)
        if said.returncode:
            sys.exit(f"{name}: {said.stderr.strip()}")
        got = {int(c["class"].split()[-1]): c["probability"] for c in json.loads(said.stdout)["classes"]}
        apart = max(abs(got[k] - want[k]) for k in got)
        print(f"{name}: {len(got)} classes, the largest {want.max():.4f}, apart by {apart:.1e}{said.stderr.strip() and ' (' + said.stderr.strip() + ')'}")
        far = max(far, apart / want.max())
sys.exit(1 if far > 1e-4 else 0)
