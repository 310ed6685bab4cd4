"""Images a second of processor time through Pillow's decode, bicubic resize and centre crop, on one thread.

usage: pillow_pipeline.py FOLDER [ROUNDS]     prints "<rate> img/s Pillow <version>", the best round
"""
import os
import sys
import time

import PIL
from PIL import Image


def crop224(path):
    with open(path, "rb") as f:
        im = Image.open(f).convert("RGB")
    w, h = im.size
    if w <= h:
        size = (256, int(256 * h / w))
    else:
        size = (int(256 * w / h), 256)
    im = im.resize(size, Image.BICUBIC)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return im.crop((left, top, left + 224, top + 224))


def main():
    folder = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    best = 0.0
    for _ in range(rounds):
        start = time.process_time()
        for path in paths:
            crop224(path)
        best = max(best, len(paths) / (time.process_time() - start))
    print(f"{best:.1f} img/s Pillow {PIL.__version__}")


main()
