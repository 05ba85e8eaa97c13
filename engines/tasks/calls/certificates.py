"""Certificates for clients that take no context of the standard library."""

import ssl

from flowstate.engines.tasks.calls.outgoing import Outgoing

__all__ = ["roots_of"]


def roots_of(outgoing: Outgoing) -> str | None:
    """Return the certificates of ``Outgoing.tls`` as PEM; ``None``: the usual ones are good."""
    if outgoing.tls is None:
        return None
    return "".join(map(ssl.DER_cert_to_PEM_cert, outgoing.tls.get_ca_certs(binary_form=True)))
