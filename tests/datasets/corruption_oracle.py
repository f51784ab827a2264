"""The published corruptions restated one image at a time, as plainly as NumPy and SciPy allow: an oracle.

Nothing here is shared with the package but the constants. Every function takes uint8 (H, W, 3), the draws in the
published scripts' own form, and the constants, and returns uint8 (H, W, 3).
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage


def cut(x):
    return np.uint8(np.clip(x, 0, 1) * 255)


def smooth(x, sigma, mode="nearest", truncate=4.0):
    sigmas = (sigma, sigma, 0)[: x.ndim] if np.isscalar(sigma) else sigma
    return ndimage.gaussian_filter(x, sigmas, mode=mode, truncate=truncate)


def gaussian_noise(image, noise, c):
    return cut(image / 255.0 + noise * c)


def speckle_noise(image, noise, c):
    x = image / 255.0
    return cut(x + x * (noise * c))


def gaussian_blur(image, c):
    return cut(smooth(image / 255.0, c))


def glass_blur(image, moves, c):
    """`moves`: (passes, 2, rows, columns), row and column offsets of the pixels that are visited."""
    sigma, reach, passes = c[0], int(c[1]), int(c[2])
    x = np.uint8(smooth(image / 255.0, sigma) * 255)
    height, width = x.shape[:2]
    for step in range(passes):
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dy, dx = moves[step, :, h - reach - 1, w - reach - 1].tolist()
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    return cut(smooth(x / 255.0, sigma))


def blur_kernel_1d(taps, sigma):
    weights = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2.0 * sigma**2))
    return weights / weights.sum()


def defocus_blur(image, c):
    radius, alias = c
    reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
    grid = np.arange(-reach, reach + 1)
    disk = np.array(grid[None] ** 2 + grid[:, None] ** 2 <= radius**2, dtype=np.float32)
    disk /= disk.sum()
    small = blur_kernel_1d(taps, alias)
    kernel = ndimage.correlate(disk.astype(np.float64), np.outer(small, small), mode="mirror")
    x = image / 255.0
    return cut(np.stack([ndimage.correlate(x[..., d], kernel, mode="mirror") for d in range(3)], axis=2))


def motion(x, radius, sigma, angle):
    """Motion blur of levels (H, W) or (H, W, C), uint8 out, on ImageMagick's 16-bit scale."""
    taps = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(taps) ** 2) / (2.0 * sigma * sigma))
    weights /= weights.sum()
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    total = np.zeros(x.shape)
    for i, weight in enumerate(weights):
        dx = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        dy = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        total += weight * 257.0 * x[np.clip(rows + dy, 0, x.shape[0] - 1), np.clip(columns + dx, 0, x.shape[1] - 1)]
    return (np.floor(total + 0.5) // 257).astype(np.uint8)


def motion_blur(image, angle, c):
    return motion(image, c[0], c[1], angle)


def clipped_zoom(x, factor):
    height, width = x.shape[:2]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = x[top : top + rows, left : left + columns]
    large = ndimage.zoom(middle, (factor, factor) + (1,) * (x.ndim - 2), order=1)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]


def zoom_blur(image, factors):
    x = (image / 255.0).astype(np.float32)
    total = np.zeros_like(x)
    for factor in factors:
        total += clipped_zoom(x, factor)
    return cut((x + total) / (len(factors) + 1))


def snow_layer(noise, angle, c):
    layer = clipped_zoom(c[0] + c[1] * noise, c[2])
    layer[layer < c[3]] = 0
    return motion((np.clip(layer, 0, 1) * 255).astype(np.uint8), c[4], c[5], angle)


def snow(image, noise, angle, c):
    layer = (snow_layer(noise, angle, c) / 255.0)[..., None]
    x = image / 255.0
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = c[6] * x + (1 - c[6]) * np.maximum(x, grey * 1.5 + 0.5)
    return cut(x + layer + np.rot90(layer, k=2))


def frost(image, texture, c):
    return np.uint8(np.clip(c[0] * image + c[1] * texture, 0, 255))


def plasma(uniform, side, decay):
    """`uniform(shape)` draws from [-1, 1) in the script's order."""
    values = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2
        places = range(0, side, step)
        for kind in ("square", "above", "beside"):
            noise = uniform((side // step, side // step)) * wibble
            for i, y in enumerate(places):
                for j, x in enumerate(places):
                    if kind == "square":
                        at, ring = (y + half, x + half), [(y, x), (y + step, x), (y, x + step), (y + step, x + step)]
                    elif kind == "above":
                        at, ring = (y, x + half), [(y, x), (y, x + step), (y + half, x + half), (y - half, x + half)]
                    else:
                        at, ring = (y + half, x), [(y, x), (y + step, x), (y + half, x + half), (y + half, x - half)]
                    mean = sum(values[a % side, b % side] for a, b in ring) / 4
                    values[at] = mean + wibble * noise[i, j]
        step, wibble = half, wibble / decay
    values -= values.min()
    return values / values.max()


def fog(image, layer, c):
    x = image / 255.0
    largest = x.max()
    x = x + c[0] * layer[..., None]
    return cut(x * largest / (largest + c[0]))


def canny(levels, low, high):
    height, width = levels.shape
    p = np.pad(levels.astype(int), 1, mode="edge")
    size = np.zeros((height + 2, width + 2), int)
    gx, gy = np.zeros((height, width), int), np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            a = p[y : y + 3, x : x + 3]
            gx[y, x] = (a[:, 2] - a[:, 0]) @ [1, 2, 1]
            gy[y, x] = (a[2] - a[0]) @ [1, 2, 1]
            size[y + 1, x + 1] = abs(gx[y, x]) + abs(gy[y, x])
    strong, weak = [], set()
    for y in range(height):
        for x in range(width):
            m, dx, dy = size[y + 1, x + 1], gx[y, x], gy[y, x]
            if m <= low:
                continue
            at = lambda i, j, y=y, x=x: size[y + 1 + i, x + 1 + j]  # noqa: E731
            flat = abs(dx) * 13573
            if abs(dy) << 15 < flat:
                ridge = m > at(0, -1) and m >= at(0, 1)
            elif abs(dy) << 15 > flat + (abs(dx) << 16):
                ridge = m > at(-1, 0) and m >= at(1, 0)
            else:
                s = -1 if (dx < 0) != (dy < 0) else 1
                ridge = m > at(-1, -s) and m > at(1, s)
            if ridge:
                weak.add((y, x))
                if m > high:
                    strong.append((y, x))
    edges = np.zeros((height, width), bool)
    while strong:
        y, x = strong.pop()
        if not edges[y, x]:
            edges[y, x] = True
            strong += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (y + i, x + j) in weak]
    return edges


def chamfer(edges):
    """Two raster passes with the 5 x 5 mask, on 16-bit fixed point."""
    a, b, c = (round(step * 65536) for step in (1.0, 1.4, 2.1969))
    mask = [(0, -1, a), (-1, 0, a), (-1, -1, b), (-1, 1, b), (-1, -2, c), (-1, 2, c), (-2, -1, c), (-2, 1, c)]
    height, width = edges.shape
    d = np.full((height + 4, width + 4), 1 << 40, np.int64)
    d[2:-2, 2:-2][edges] = 0
    for sign, rows, columns in (
        (1, range(height), range(width)),
        (-1, range(height - 1, -1, -1), range(width - 1, -1, -1)),
    ):
        for y in rows:
            for x in columns:
                d[y + 2, x + 2] = min(
                    d[y + 2, x + 2], *(d[y + 2 + sign * i, x + 2 + sign * j] + cost for i, j, cost in mask)
                )
    return np.minimum(d[2:-2, 2:-2] / 65536, 1e6).astype(np.float32)


def equalize(levels):
    counts = np.bincount(levels.ravel(), minlength=256)
    first = np.flatnonzero(counts)[0]
    if counts[first] == levels.size:
        return levels.copy()
    scale = np.float32(255) / np.float32(levels.size - counts[first])
    table, total = np.zeros(256, np.uint8), 0
    for level in range(first + 1, 256):
        total += counts[level]
        table[level] = np.clip(np.rint(np.float32(total) * scale), 0, 255)
    return table[levels]


def spatter_layer(noise, c):
    liquid = smooth(c[0] + c[1] * noise, c[2])
    liquid[liquid < c[3]] = 0
    if c[5]:
        mask = smooth(np.where(liquid > c[3], 1.0, 0.0), c[4])
        mask[mask < 0.8] = 0
        return mask
    levels = (liquid * 255).astype(np.uint8)
    distance = np.minimum(chamfer(canny(levels, 50, 150)), 20)
    mean = np.full((3, 3), 1.0)
    blurred = ndimage.correlate(distance.astype(np.float64), mean, mode="mirror") * (1 / 9)
    relief = equalize(blurred.astype(np.float32).astype(np.uint8)).astype(int)
    relief = ndimage.correlate(relief, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror").clip(0, 255)
    relief = np.rint(ndimage.correlate(relief.astype(np.float64), mean, mode="mirror") / 9)
    layer = (levels * relief).astype(np.float32)
    return (layer / max(layer.max(), np.float32(1e-9)) * np.float32(c[4])).astype(np.float64)


def spatter(image, layer, c):
    x, layer = image / 255.0, layer[..., None]
    if c[5]:
        return cut(x * (1 - layer) + layer * np.array([63, 42, 20]) / 255)
    return cut(x + layer * np.array([175, 238, 238]) / 255)


def contrast(image, c):
    x = image / 255.0
    mean = x.mean(axis=(0, 1), keepdims=True)
    return cut((x - mean) * c + mean)


def to_hsv(rgb):
    r, g, b = np.moveaxis(rgb, 2, 0)
    v = rgb.max(axis=2)
    delta = v - rgb.min(axis=2)
    h = np.zeros_like(v)
    with np.errstate(divide="ignore", invalid="ignore"):
        for largest, shift, first, second in ((r, 0.0, g, b), (g, 2.0, b, r), (b, 4.0, r, g)):
            h = np.where(largest == v, shift + (first - second) / delta, h)
        s = np.where(delta > 0, delta / v, 0.0)
    return np.stack([np.where(delta > 0, (h / 6.0) % 1.0, 0.0), s, v], axis=2)


def from_hsv(hsv):
    h, s, v = np.moveaxis(hsv, 2, 0)
    sector = np.floor(h * 6)
    f = h * 6 - sector
    p, q, t = v * (1 - s), v * (1 - f * s), v * (1 - (1 - f) * s)
    choice = sector.astype(int) % 6
    columns = ((v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q))
    return np.stack([np.choose(choice, column) for column in columns], axis=2)


def brightness(image, c):
    hsv = to_hsv(image / 255.0)
    hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
    return cut(from_hsv(hsv))


def saturate(image, c):
    hsv = to_hsv(image / 255.0)
    hsv[..., 1] = np.clip(hsv[..., 1] * c[0] + c[1], 0, 1)
    return cut(from_hsv(hsv))


def pixelate(image, c):
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * c), int(height * c)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
    return np.array(Image.open(io.BytesIO(buffer.getvalue())))


def bilinear(x, rows, columns, mode):
    return np.stack(
        [ndimage.map_coordinates(x[..., d], [rows, columns], order=1, mode=mode) for d in range(x.shape[2])], axis=2
    )


def elastic_transform(image, jitter, fields, c):
    """`jitter` (3, 2) in pixels, `fields` (2, H, W) uniform in [-1, 1)."""
    height, width = image.shape[:2]
    x = image.astype(np.float32) / np.float32(255)
    centre = np.array([width // 2, height // 2], np.float64)
    side = min(height, width) // 3
    before = np.array([centre + side, [centre[0] + side, centre[1] - side], centre - side])
    after = before + jitter.astype(np.float32)
    # The map that takes `before` to `after`, and its inverse at every pixel.
    matrix = np.linalg.solve(np.c_[before, np.ones(3)], after).T
    inverse = np.linalg.inv(np.r_[matrix, [[0, 0, 1]]])
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    back = np.einsum("ij,jhw->ihw", inverse, np.stack([columns, rows, np.ones_like(rows)]))
    x = bilinear(x, back[1], back[0], "mirror")
    dx, dy = (smooth(field, c[1], "reflect", 3.0).astype(np.float32) * np.float32(c[0]) for field in fields)
    return cut(bilinear(x, rows + dy, columns + dx, "reflect"))


def counts_of_words(words, rates):
    """Poisson counts by inversion: the least k with P(count <= k) above the word's share of the 32-bit range."""
    shares = (words.astype(np.int64) + 2**31 + 0.5) / 2.0**32
    counts = np.zeros(words.shape, np.int64)
    term = np.exp(-rates)
    total = term.copy()
    while True:
        open_ = total <= shares
        if not open_.any() or counts.max() > 2000:
            return counts
        counts[open_] += 1
        term = np.where(open_, term * rates / np.maximum(counts, 1), term)
        total = np.where(open_, total + term, total)


def shot_noise(image, words, c):
    return cut(counts_of_words(words, image / 255.0 * c) / c)


def impulse_noise(image, words, c):
    """A word in the lowest share c / 2 of the range is pepper, in the next salt."""
    share = (words.astype(np.int64) + 2**31) / 2.0**32
    x = np.where(share < c, 255, image)
    return np.where(share < c / 2, 0, x).astype(np.uint8)
