"""Computes the structural similarity of two patterns from the definition, one window after the other, and prints the
value that the unit test expects.
"""

import numpy as np

i, j = np.mgrid[:13, :14]
a, other = (((i * 37 + j * 101 + i * j * step) % 256) / 255 for step in (17, 23))
b = (2 * a + other) / 3
u = np.arange(11) - 5
w = np.exp(-(u[:, None] ** 2 + u[None] ** 2) / (2 * 1.5**2))
w /= w.sum()
values = []
for y in range(3):
    for x in range(4):
        p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
        mp, mq = (w * p).sum(), (w * q).sum()
        vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
        values.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
print(repr(float(np.mean(values))))
