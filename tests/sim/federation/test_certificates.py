"""Certificates: whom a client trusts, by real handshakes; keys are for their owner alone."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_private_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, uses_nist_ec_curve

from userdp.sim.federation import certificates


@contextlib.contextmanager
def serving(signed):
    """A server with this certificate; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with contextlib.suppress(OSError), context.wrap_socket(connection, True) as secure:
                    secure.sendall(b"x")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def greeting(port, authority, host="127.0.0.1", flags=0):
    context = ssl.create_default_context(cafile=authority)
    context.verify_flags |= flags
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    with connection, context.wrap_socket(connection, server_hostname=host) as secure:
        return secure.recv(1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_client_trusts_what_its_authority_signed(host, tmp_path):
    authority = certificates.Authority(tmp_path)
    with serving(authority.sign("superlink")) as port:
        strict = ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        assert greeting(port, authority.certificate, host, strict) == b"x"


def test_another_authority_another_host_and_an_expired_certificate_are_refused(
    tmp_path, monkeypatch
):
    (tmp_path / "other").mkdir()
    foreign = certificates.Authority(tmp_path / "other").certificate
    authority = certificates.Authority(tmp_path)
    with serving(authority.sign("superlink")) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            greeting(port, foreign)
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            greeting(port, authority.certificate, "example.org")
    monkeypatch.setattr(certificates, "_DAYS", -1)
    monkeypatch.setattr(certificates, "_EARLY", certificates.datetime.timedelta(days=2))
    with (
        serving(authority.sign("late")) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="expired"),
    ):
        greeting(port, authority.certificate)


def test_a_server_cannot_sign_for_others(tmp_path):
    """The chain from a server's certificate to one that it signed is refused."""
    authority = certificates.Authority(tmp_path)
    signed = authority.sign("superlink")
    found = x509.load_pem_x509_certificate(signed.certificate.read_bytes()).extensions
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert not list(tmp_path.glob("ca.key"))
    with serving(authority.sign("other")) as port, pytest.raises(ssl.SSLCertVerificationError):
        greeting(port, signed.certificate)


def test_keys_are_for_their_owner_alone_and_flower_reads_them(tmp_path):
    signed = certificates.Authority(tmp_path).sign("superlink")
    public = certificates.node_key(tmp_path / "node.key")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (signed.key, tmp_path / "node.key")}
    assert modes == {0o600}
    private = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    numbers = [key.public_numbers() for key in (private.public_key(), load_pem_public_key(public))]
    assert numbers[0] == numbers[1]
    assert uses_nist_ec_curve(bytes_to_public_key(public))


def test_two_authorities_and_two_keys_differ(tmp_path):
    keys = [certificates.node_key(tmp_path / f"{n}.key") for n in range(2)]
    assert keys[0] != keys[1]
