# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Ellipticities of galaxies as an adaptive fit sees them, without any pixels.

Disk, bulge and PSF are mixtures of Gaussians, and so is the galaxy seen through
the PSF; the moments of a mixture under a Gaussian weight have closed forms.

The mixtures of the exponential and de Vaucouleurs profiles (without truncation)
below are least squares fits by ``scipy.optimize.least_squares``, in units of the
half-light radius. What a fit under a weight asks of a profile is its light
:math:`F(s) = \\int I(r) \\exp(-r^2 / 2 s^2) 2 \\pi r\\, dr` under Gaussians of all
widths s, which for a mixture of shares :math:`w_k` and widths :math:`\\sigma_k` is
:math:`\\sum_k w_k s^2 / (\\sigma_k^2 + s^2)`. The residuals were the relative error of
F and the error of its logarithmic slope on 160 widths from 0.02 to 100, spaced
evenly in the logarithm. The largest of them is 0.0025 for the disk (0.0005 rms) and
0.0015 for the bulge (0.0004 rms).
"""

import torch

from bliss_astro._arguments import require
from bliss_astro.psf import GaussianPSF

# Share of the light and width of each Gaussian.
_DISK = (
    (0.00025, 0.03532),
    (0.00797, 0.12493),
    (0.1112, 0.33862),
    (0.50898, 0.75059),
    (0.3716, 1.41983),
)
_BULGE = (
    (0.00694, 0.01241),
    (0.02438, 0.04034),
    (0.06929, 0.10284),
    (0.15456, 0.25208),
    (0.25273, 0.61502),
    (0.27702, 1.52325),
    (0.17336, 3.95657),
    (0.04171, 11.77489),
)

# Step of the quadrature of the PSF's power law, coarser than where pixels are drawn.
_PSF_STEP = 1.4

# Galaxies that are worked on at once, so that their Gaussians stay in the cache.
_PIECE = 512

# Smallest squared width in pixels, against zero radii.
_TINY = 1e-6

# Largest ellipticity and correlation coefficient that are returned or tried.
_MOST = 0.999
_MOST_CORRELATION = 0.9995


def adaptive_moments(psf, galaxy, *, n_iterations=10):
    """
    Ellipticity and size of galaxies seen through a PSF, by adaptive moments.

    The elliptical Gaussian weight of covariance M is that whose weighted second
    moments are those of a Gaussian of covariance M, as in Hirata & Seljak (2003)
    and GalSim's ``galsim.hsm.FindAdaptiveMom``, whose ``observed_shape`` this is
    on a noiseless image.

    Parameters
    ----------
    psf : tensor ``(..., 8)``
        PSFs in the order of `bliss_astro.psf.SHAPE_NAMES`, which contain the pixel.

    galaxy : tensor ``(..., 6)``
        Shapes in the order of ``GALAXY_SHAPE_NAMES``; radii in pixels. The leading
        axes broadcast against those of ``psf``. Values are not checked.

    n_iterations : int, optional
        Number of accelerated iterations.

    Returns
    -------
    e1, e2 : tensor ``(...)``
        Distortion ``(1 - q^2) / (1 + q^2)`` times the cosine and sine of twice the
        angle from +x towards +y, with q the axis ratio of M.

    size : tensor ``(...)``
        ``det(M)^(1/4)`` in pixels.

    Raises
    ------
    ValueError
        If the last axes are not 8 and 6 long or ``n_iterations`` is not positive.

    Notes
    -----
    On galaxies and PSFs of the priors, GalSim's ellipticities differ by 0.0005 on
    average and by less than 0.002, except where the PSF is narrower than a pixel and
    sums over pixels are no integrals. Faint light far around a bright point can
    have two solutions; which one is found is a matter of chance, here as there.
    Ellipticities are kept below 0.999. Not meant to be differentiated.

    References
    ----------
    Hirata & Seljak 2003, MNRAS 343, 459.

    Examples
    --------
    >>> import torch
    >>> from bliss_astro.psf import DEFAULT_SHAPE
    >>> from bliss_astro.rendering import adaptive_moments
    >>> galaxy = torch.tensor([1.0, 0.0, 0.5, 0.5, 4.0, 2.0])
    >>> e1, e2, size = adaptive_moments(torch.tensor(DEFAULT_SHAPE), galaxy)
    >>> print(f'{e1:.2f} {abs(e2):.2f} {size:.1f}')
    0.40 0.00 3.0
    """
    for name, values, n in (('psf', psf, 8), ('galaxy', galaxy, 6)):
        own = tuple(values.shape)
        require(own[-1:] == (n,), name, f'have {n} numbers in the last axis', own)
    require(n_iterations >= 1, 'n_iterations', 'be at least 1', n_iterations)
    shape = torch.broadcast_shapes(psf.shape[:-1], galaxy.shape[:-1])
    if not shape.numel():
        return tuple(galaxy.new_zeros(shape) for _ in range(3))
    with torch.no_grad():
        psf = psf.to(galaxy).expand(*shape, 8).reshape(-1, 8)
        galaxy = galaxy.expand(*shape, 6).reshape(-1, 6)
        parts = [
            _moments(*pair, n_iterations)
            for pair in zip(psf.split(_PIECE), galaxy.split(_PIECE), strict=True)
        ]
        return tuple(torch.cat(part).view(shape) for part in zip(*parts, strict=True))


def _moments(psf, galaxy, n_iterations):
    """Moments of N galaxies, in a frame turned to their common angle and back."""
    angle = galaxy[:, 1]
    cos, sin = torch.cos(2 * angle), torch.sin(2 * angle)
    mixture = _Mixture(psf, galaxy, cos, sin)
    m = _fixed_point(mixture, n_iterations)
    xx, yy = torch.exp(m[0]), torch.exp(m[1])
    root = torch.sqrt(xx * yy)
    size = torch.sqrt(root * torch.sqrt(1 - m[2] ** 2))
    total = xx + yy
    e1, e2 = (xx - yy) / total, 2 * m[2] * root / total
    shrink = (_MOST / torch.hypot(e1, e2).clamp(min=_MOST)).clamp(max=1.0)
    e1, e2 = e1 * shrink, e2 * shrink
    return e1 * cos - e2 * sin, e1 * sin + e2 * cos, size


class _Mixture:
    """I galaxy components and J PSF components of N galaxies, as (I, J, N)."""

    def __init__(self, psf, galaxy, cos, sin):
        psf = GaussianPSF.from_shape(psf, step=_PSF_STEP)
        self.p, light = psf.variance.T, psf.fluxes.T  # (J, N)
        # The PSF in the frame of the galaxy; the matrix has the determinant one.
        e1, e2 = psf.shape[:, 6:].unbind(1)
        norm = torch.rsqrt(1 - e1**2 - e2**2)
        turned = e1 * cos + e2 * sin
        self.exx, self.eyy = norm * (1 + turned), norm * (1 - turned)
        self.exy = norm * (e2 * cos - e1 * sin)
        fraction, _, disk_ratio, bulge_ratio, disk, bulge = galaxy.T
        shares, along, across = [], [], []
        for table, share, ratio, radius in (
            (_DISK, fraction, disk_ratio, disk),
            (_BULGE, 1 - fraction, bulge_ratio, bulge),
        ):
            share_k, width = galaxy.new_tensor(table).T[:, :, None]
            shares.append(share_k * share)
            along.append((width * radius) ** 2)
            across.append((width * radius * ratio) ** 2)
        self.gxx, self.gyy = torch.cat(along), torch.cat(across)  # (I, N)
        self.shares = torch.cat(shares)
        self.weight = self.shares[:, None] * light / light.sum(0)

    def start(self):
        """A rough guess: the core of the PSF and an average galaxy."""
        core = self.p[0] * 1.3
        # Harmonic, as the weight shrinks onto what is bright.
        mean = self.shares / self.shares.sum(0)
        gxx = 1 / (mean / (self.gxx + core)).sum(0) - core
        gyy = 1 / (mean / (self.gyy + core)).sum(0) - core
        xx, yy = core * self.exx + gxx, core * self.eyy + gyy
        xy = core * self.exy
        return _to_unknowns(xx, yy, xy)

    def step(self, m):
        """
        The covariance that explains the moments under the weight M.

        With the weight exp(-x^T M^-1 x / 2), a Gaussian of covariance C leaves the
        light a = det(C + M)^(-1/2) and the inverse of its sum with M is weighted
        with it: H = sum(a (C + M)^-1) / sum(a), and the next M is H^-1 - M, which
        is C itself for one Gaussian.
        """
        mxx, myy = torch.exp(m[0]), torch.exp(m[1])
        mxy = m[2] * torch.sqrt(mxx * myy)
        axx, ayy = self.gxx + mxx, self.gyy + myy
        # det(A + p E) = det(A) + p (...) + p^2
        det = axx * ayy - mxy**2
        mixed = axx * self.eyy + ayy * self.exx - 2 * mxy * self.exy
        det = torch.addcmul(det[:, None], self.p, mixed[:, None] + self.p)
        t = torch.rsqrt(det).mul_(self.weight)
        light = t.sum((0, 1))
        t /= det
        by_galaxy = t.sum(1)
        by_psf = (t.sum(0) * self.p).sum(0)
        total = by_galaxy.sum(0)
        kxx = (by_galaxy * self.gxx).sum(0) + by_psf * self.exx + total * mxx
        kyy = (by_galaxy * self.gyy).sum(0) + by_psf * self.eyy + total * myy
        kxy = by_psf * self.exy + total * mxy
        scale = light / (kxx * kyy - kxy**2)
        return _to_unknowns(scale * kxx - mxx, scale * kyy - myy, scale * kxy - mxy)


def _to_unknowns(xx, yy, xy):
    xx, yy = xx.clamp(min=_TINY), yy.clamp(min=_TINY)
    rho = xy * torch.rsqrt(xx * yy)
    return torch.stack(
        [xx.log(), yy.log(), rho.clamp(-_MOST_CORRELATION, _MOST_CORRELATION)]
    )


def _fixed_point(mixture, n_iterations):
    """Anderson's acceleration with two earlier steps, for each galaxy on its own."""
    m = mixture.start()
    old, last = [], None
    for _ in range(n_iterations):
        new = mixture.step(m)
        residual = new - m
        size = (residual**2).sum(0)
        old = [*old[-2:], (new, residual)]
        m = _extrapolated(old)
        if last is not None:
            # A point with a broad disk can have two solutions, between which an
            # extrapolation may jump back and forth; plain steps do not.
            m = torch.where(size < last, m, new)
        last = size
    return m


def _extrapolated(old):
    """The combination of earlier steps whose residuals are smallest."""
    new, residual = old[-1]
    if len(old) == 1:
        return new
    d_new = torch.stack([new - other for other, _ in old[:-1]])
    d_res = torch.stack([residual - other for _, other in old[:-1]])
    # A ridge of one part in 1e3: earlier steps may be nearly parallel, or zero.
    eye = torch.eye(len(d_res)).to(new)[..., None]
    gram = (d_res[:, None] * d_res).sum(2) * (1 + 1e-3 * eye) + 1e-30 * eye
    weight = torch.linalg.solve(gram.permute(2, 0, 1), (d_res * residual).sum(1).T)
    m = new - (weight.T[:, None] * d_new).sum(0).clamp(-1.0, 1.0)
    m[2].clamp_(-_MOST_CORRELATION, _MOST_CORRELATION)
    return m
