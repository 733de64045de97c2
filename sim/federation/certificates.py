"""Makes certificates for TLS and keys of nodes, for a federation on one machine.

An authority signs one certificate a server; its private key is kept by nobody, so that it signs
nothing else. Each SuperNode has a key pair, whose public half the SuperLink is told.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from userdp.sim.common import durable_file

PRIVATE = 0o600
_DAYS = 365
_EARLY = datetime.timedelta(minutes=5)  # for clocks that are behind


@dataclass(frozen=True)
class Certificate:
    """The files of a server's certificate, in PEM."""

    authority: Path  # of the authority that signed it; what clients trust
    certificate: Path
    key: Path


class Authority:
    """Signs certificates of servers on this machine, as long as the object lives.

    Args:
        folder: for the files; the authority's own certificate is written there as ``ca.pem``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = _name("userdp local authority")
        usage = _usage(signs_certificates=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = _builder(self._name, self._name, self._key.public_key())
        self._certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / "ca.pem"
        durable_file.replace(self.certificate, self._certificate.public_bytes(Encoding.PEM))

    def sign(self, name: str) -> Certificate:
        """A new key and certificate for a server at 127.0.0.1 or localhost.

        Args:
            name: of its files.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        signed = (
            _builder(_name(name), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(_this_machine()), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = Certificate(
            self.certificate, self._folder / f"{name}.pem", self._folder / f"{name}.key"
        )
        durable_file.replace(files.certificate, signed.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        durable_file.replace(files.key, private, mode=PRIVATE)
        return files


def node_key(path: Path) -> bytes:
    """Write a SuperNode's private key, as Flower reads it; returns the public key, in PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    durable_file.replace(path, private, mode=PRIVATE)
    return key.public_key().public_bytes(
        Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _this_machine() -> list[x509.GeneralName]:
    addresses = [ipaddress.ip_address(text) for text in ("127.0.0.1", "::1")]
    return [x509.DNSName("localhost"), *map(x509.IPAddress, addresses)]
