# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Losses of neural posterior estimation: the forward divergence of posteriors.
"""


def npe_loss(posterior, catalog, *, guidance: float = 0.1):
    r"""
    Negative log-density of the true catalogue, per image.

    Let catalogues and images be drawn from the model,
    :math:`(z, x) \sim p(z)\, p(x \mid z)`.  The expected forward divergence
    from the exact posterior to a family :math:`q_\phi` is

    .. math::

        \mathbb{E}_{p(x)}\,
            \mathrm{KL}\left[p(z \mid x) \,\|\, q_\phi(z \mid x)\right]
        = \mathbb{E}_{p(z, x)} \left[\log p(z \mid x)\right]
        - \mathbb{E}_{p(z, x)} \left[\log q_\phi(z \mid x)\right] ,

    and its first term does not depend on :math:`\phi`.  So minimising the
    mean of :math:`-\log q_\phi(z \mid x)` over simulated pairs minimises
    the divergence.  Whatever else was drawn to make x (the pixels
    of single exposures, stars outside of the image, the blemishes) is
    marginalised because it is no part of the z of q.

    Parameters
    ----------
    posterior : `~bliss_astro.posteriors.TilePosterior`
        Posterior of B images.

    catalog : `~bliss_astro.posteriors.TileCatalog`
        Their true catalogues.

    guidance : float, optional
        Weight of the distance in pixels between the true position and the
        first guess from which the least-squares fit starts.  The guess has
        no other gradient and q is fitted given any guess, so
        this term does not move the minimum of the loss.

    Returns
    -------
    loss : tensor ``()``
        Mean over images, in nats.

    terms : dict of tensor ``()``
        Its ``count``, ``position``, ``flux`` and, where sources have types, shapes or
        further parameters, ``type``, ``shape``, ``ellipticity`` and their parts (mean
        per image) and the mean miss of the first guess (``start``, in pixels).  The
        ellipticity is a function of the shape whose posterior is learnt for itself;
        it is added to the loss.
    """
    parts = posterior.log_prob_terms(catalog, one_pass=True)
    n_images = len(posterior)
    always, others = ('position', 'flux'), ('image', 'start')
    terms = {
        name: -value.sum() / n_images
        for name, value in parts.items()
        if name not in others and (len(value) or name in always)
    }
    loss = sum(terms.values())
    n_sources = max(1, len(parts['start']))
    terms['start'] = parts['start'].sum() / n_sources
    return loss + guidance * parts['start'].sum() / n_images, terms


def sequence_loss(sequence, catalog, measured=None):
    """
    The same for the encoders that follow detection, given the true positions.

    Parameters
    ----------
    sequence : ``SourceSequence``
        Posterior of B images.

    catalog : `~bliss_astro.posteriors.TileCatalog`
        Their true catalogues.

    measured : tuple, optional
        Fits to their sources, from ``SourceSequence.measure``, where they are known.

    Returns
    -------
    loss : tensor ``()``
        Mean over images, in nats.

    terms : dict of tensor ``()``
        Its parts, named ``source_`` and the parameter.
    """
    parts, n_images = sequence.log_prob(catalog, measured), len(catalog.count)
    terms = {f'source_{name}': -part.sum() / n_images for name, part in parts.items()}
    return sum(terms.values()), terms
