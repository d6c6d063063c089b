"""Packs and signs spores: a second implementation of docs/spore-format.md.

It shares nothing with lib/spore, so that a spore that the mesh accepts is one
that a stranger could have made from the document.
"""

import base64
import datetime
import hashlib
import io
import json
import pathlib
import subprocess
import tempfile
import zipfile


class Key:
    """An Ed25519 key in a file, made and used by openssl."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if not self.path.exists():
            _openssl("genpkey", "-algorithm", "ed25519", "-out", self.path)
        der = _openssl("pkey", "-in", self.path, "-pubout", "-outform", "DER")
        self.public_key = der[-32:]

    @property
    def public_key_base64(self):
        return base64.b64encode(self.public_key).decode()

    @property
    def key_id(self):
        return hashlib.sha256(self.public_key).hexdigest()

    def sign(self, data):
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return _openssl(
                "pkeyutl", "-sign", "-rawin", "-inkey", self.path, "-in", file.name
            )


def _openssl(*args):
    return subprocess.run(
        ["openssl", *map(str, args)], check=True, capture_output=True
    ).stdout


class Spore:
    def __init__(self, data):
        self.data = data
        self.digest = hashlib.sha256(data).hexdigest()


def _canonical(value):
    # RFC 8785 for what the tests put into manifests: ASCII keys and integers.
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def pack(key, name, binary, **members):
    """A spore whose command is `binary` (bytes or a path), signed with `key`.

    `members` replace members of the manifest; one that is None goes.
    """
    if not isinstance(binary, bytes):
        binary = pathlib.Path(binary).read_bytes()
    command = name.rpartition("/")[2]
    manifest = {
        "kind": "Spore",
        "name": name,
        "version": "1.0.0",
        "command": command,
        "nutrients": {"cpu_milli": 50, "memory_mb": 32},
        "created_at": datetime.datetime.now(datetime.timezone.utc).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        ),
        "binary_sha256": hashlib.sha256(binary).hexdigest(),
        "public_key": key.public_key_base64,
    }
    manifest.update(members)
    manifest = {k: v for k, v in manifest.items() if v is not None}
    statement = _canonical(manifest) + hashlib.sha256(binary).digest()
    signature = key.sign(hashlib.sha256(statement).digest())
    manifest["signature"] = base64.b64encode(signature).decode()
    return Spore(
        container({"manifest.json": _canonical(manifest), manifest["command"]: binary})
    )


def container(entries):
    """The zip file that `meshctl build` would write for these entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path, data in entries.items():
            info = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            mode = 0o644 if path == "manifest.json" else 0o755
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, data)
    return out.getvalue()


def entries_of(spore):
    """Path -> bytes of a spore, to build a changed one from."""
    with zipfile.ZipFile(io.BytesIO(spore.data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def trust_store(key_names):
    """trust.json that lets each key sign names: {Key: [patterns]}."""
    return json.dumps(
        {
            "format": "mycelium.trust/v1",
            "version": 1,
            "keys": {
                key.key_id: {
                    "type": "ed25519",
                    "public_key": key.public_key_base64,
                    "state": "active",
                }
                for key in key_names
            },
            "rules": [
                {"names": names, "keyids": [key.key_id]}
                for key, names in key_names.items()
            ],
            "revoked_spores": [],
        }
    )
