# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checksums of the FITS files that the package writes.
"""

__all__ = ['CREATOR', 'verify_checksums']

CREATOR = 'bliss_astro'
"""Value of the card CREATOR of such files."""


def verify_checksums(hdus):
    """
    Compare the parts of a file of ours with their CHECKSUM and DATASUM cards.

    Files of other programs are let through, because their headers are often
    edited without a new sum.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The file, just opened: sums are those of the bytes, which astropy forgets
        when it has made arrays of them.

    Raises
    ------
    OSError
        If a sum differs.
    """
    if hdus[0].header.get('CREATOR') != CREATOR:
        return
    for place, hdu in enumerate(hdus):
        # 2 stands for no sum: files of earlier versions.
        if hdu.verify_datasum() == 0 or hdu.verify_checksum() == 0:
            msg = (
                f'extension {place} ({hdu.name}) was damaged after it was written: '
                'its checksum differs (if it was edited on purpose, write it with '
                'checksum=True, or without the cards CHECKSUM and DATASUM)'
            )
            raise OSError(msg)
