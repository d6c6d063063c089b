"""Certificates that openssl makes for one test."""

import pathlib
import subprocess

import grpc


class Authority:
    """A CA in a directory, and the identities that it signs."""

    def __init__(self, directory, name="ca"):
        self._directory = pathlib.Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self.certificate = self._directory / f"{name}.pem"
        self._key = self._directory / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"),
            *("-keyout", self._key, "-out", self.certificate),
            *("-subj", f"/CN={name}"),
        )

    def issue(self, name):
        """An identity for this machine, to serve and to call with."""
        key = self._directory / f"{name}.key"
        request = self._directory / f"{name}.csr"
        certificate = self._directory / f"{name}.pem"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
        )
        _openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}"),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate),
            *("-CAkey", self._key, "-CAcreateserial", "-days", "2"),
            *("-extfile", extensions, "-out", certificate),
        )
        return Identity(certificate, key, self.certificate)


class Identity:
    def __init__(self, certificate, key, authority):
        self.certificate = certificate
        self.key = key
        self.authority = authority

    def service_flags(self):
        return [
            f"--tls_cert={self.certificate}",
            f"--tls_key={self.key}",
            f"--tls_ca={self.authority}",
        ]

    def channel_credentials(self):
        return grpc.ssl_channel_credentials(
            self.authority.read_bytes(),
            self.key.read_bytes(),
            self.certificate.read_bytes(),
        )


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)
