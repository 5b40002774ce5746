# Copyright 2026 The mslkeep authors.
# SPDX-License-Identifier: Apache-2.0

"""A crypto provider in Python, to show that one can be written in any language.

It keeps HMAC and AES keys in a file, IN THE CLEAR: it is an example and nothing more. providers/provider.proto
says what it must do, and README.md how it is built.
"""

import base64
import ctypes
import datetime
import hmac
import json
import os
import resource
import sys
import threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import provider_pb2 as pb

CONN_FD, SETTINGS_FD = 3, 5
MAX_MESSAGE = 17 << 20
SIZES = {"aes-128": 16, "aes-256": 32, "hmac-sha256": 32}
CAN = {
    "aes-128": ([pb.ENCRYPT, pb.DECRYPT], ["AES-GCM"]),
    "aes-256": ([pb.ENCRYPT, pb.DECRYPT], ["AES-GCM"]),
    "hmac-sha256": ([pb.MAC, pb.VERIFY_MAC], []),
}


class Failed(Exception):
    """A failure that the agent is told of."""

    def __init__(self, code, detail=""):
        self.failure = pb.Failure(code=code, op="using a key in Python", detail=detail)


class Keys:
    """The keys, by name; each has one version."""

    def __init__(self, path):
        self.path, self.lock, self.keys = path, threading.Lock(), {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                self.keys = json.load(f)

    def find(self, name, version):
        with self.lock:
            if version > 1 or name not in self.keys:
                raise Failed(pb.NO_SUCH_KEY)
            return self.keys[name]

    def add(self, name, key_type, key):
        if key_type not in SIZES:
            raise Failed(pb.NOT_SUPPORTED, "no such type of key")
        key = os.urandom(SIZES[key_type]) if key is None else key
        if len(key) != SIZES[key_type]:
            raise Failed(pb.MALFORMED, "wrong size")
        with self.lock:
            if name in self.keys:
                raise Failed(pb.EXISTS)
            self.keys[name] = {"type": key_type, "key": key.hex()}
            self.save()

    def remove(self, name, version):
        self.find(name, version)
        with self.lock:
            del self.keys[name]
            self.save()

    def save(self):
        fd = os.open(self.path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as f:
            json.dump(self.keys, f)
            f.flush()
            os.fsync(fd)
        os.rename(self.path + ".new", self.path)


def described(name, key):
    operations, mechanisms = CAN[key["type"]]
    return pb.Key(name=name, version=1, type=key["type"], operations=operations, mechanisms=mechanisms)


def use(key, step):
    """Does one operation and returns its output."""
    if step.operation not in CAN[key["type"]][0]:
        raise Failed(pb.NOT_SUPPORTED)
    secret = bytes.fromhex(key["key"])
    if step.operation == pb.MAC:
        return hmac.digest(secret, step.input, "sha256")
    if step.operation == pb.VERIFY_MAC:
        if not hmac.compare_digest(hmac.digest(secret, step.input, "sha256"), step.mac):
            raise Failed(pb.VERIFICATION_FAILED)
        return b""
    if step.mechanism != "AES-GCM":
        raise Failed(pb.NOT_SUPPORTED)
    if len(step.iv) != 12:
        raise Failed(pb.MALFORMED, "iv has the wrong size")
    if step.operation == pb.ENCRYPT:
        return AESGCM(secret).encrypt(step.iv, step.input, step.aad)
    try:
        return AESGCM(secret).decrypt(step.iv, step.input, step.aad)
    except (InvalidTag, ValueError):
        raise Failed(pb.VERIFICATION_FAILED) from None


class Provider:
    """The calls of the service, by name."""

    def __init__(self, keys):
        self.keys = keys

    def Describe(self, request):
        return pb.DescribeReply(name="python-example", version="1", generates=True, imports=True, destroys=True, many=True,
                                generate_types=SIZES, import_types=SIZES, warnings=["an example: its keys are in a file, in the clear"])

    def Health(self, request):
        for name in list(self.keys.keys):
            key = self.keys.find(name, 1)
            if key["type"] == "hmac-sha256":
                use(key, pb.Step(operation=pb.MAC))
            else:
                use(key, pb.Step(operation=pb.ENCRYPT, mechanism="AES-GCM", iv=bytes(12)))
        return pb.HealthReply()

    def Keys(self, request):
        return pb.KeysReply(keys=[described(n, k) for n, k in list(self.keys.keys.items())])

    def Open(self, request):
        return pb.KeyReply(key=described(request.name, self.keys.find(request.name, request.version)))

    def PublicKey(self, request):
        raise Failed(pb.NOT_SUPPORTED)

    def Do(self, request):
        results = []
        for step in request.steps[:64]:
            try:
                if step.operation == pb.RANDOM:  # which Describe does not advertise
                    raise Failed(pb.NOT_SUPPORTED)
                results.append(pb.StepResult(output=use(self.keys.find(step.key, step.version), step)))
            except Failed as e:
                results.append(pb.StepResult(failure=e.failure))
                if request.stop:
                    break
        return pb.DoReply(results=results)

    def DoMany(self, request):
        return pb.DoManyReply(batches=[self.Do(batch) for batch in request.batches[:64]])

    def Generate(self, request):
        self.keys.add(request.name, request.type, None)
        return self.Open(pb.OpenRequest(name=request.name))

    def Import(self, request):
        self.keys.add(request.name, request.type, request.key)
        return self.Open(pb.OpenRequest(name=request.name))

    def Rotate(self, request):
        raise Failed(pb.NOT_SUPPORTED)

    def Destroy(self, request):
        self.keys.remove(request.name, request.version)
        return pb.DestroyReply()


def handlers(provider):
    """The service, and go-plugin's sign of life, for which bytes suffice."""

    def answering(call, reply_type):
        def answer(request, context):
            try:
                return call(request)
            except Failed as e:
                return reply_type(failure=e.failure)

        return answer

    methods = {}
    for m in pb.DESCRIPTOR.services_by_name["Provider"].methods:
        request, reply = getattr(pb, m.input_type.name), getattr(pb, m.output_type.name)
        methods[m.name] = grpc.unary_unary_rpc_method_handler(
            answering(getattr(provider, m.name), reply), request.FromString, reply.SerializeToString)
    serving = grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")
    return (grpc.method_handlers_generic_handler("mslkeep.provider.v1.Provider", methods),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": serving}))


def certificate():
    """Returns a new private key and a certificate for it, in PEM, and the certificate in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(now + datetime.timedelta(days=3650))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256()))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, cert.public_bytes(serialization.Encoding.PEM), cert.public_bytes(serialization.Encoding.DER)


def harden():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def main():
    if os.environ.get("MSLKEEP_CHILD") != "7d2a6f4be1c94c6f8f0b52f1f0a3d9c1":
        sys.exit("this is a provider: the key agent starts it")
    harden()
    settings = json.loads(os.pread(SETTINGS_FD, 1 << 20, 0))
    if set(settings) != {"file"}:
        print("settings must have file, and nothing else", file=sys.stderr)
        sys.exit(20)  # what to advise; see provider.proto
    provider = Provider(Keys(settings["file"]))

    private, cert, der = certificate()
    client = os.environ["PLUGIN_CLIENT_CERT"].encode()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=[
        ("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)])
    server.add_generic_rpc_handlers(handlers(provider))
    address = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], "provider")
    server.add_secure_port("unix:" + address, grpc.ssl_server_credentials([(private, cert)], client, True))
    server.start()
    print("|".join(["1", "1", "unix", address, "grpc", base64.b64encode(der).decode().rstrip("=")]), flush=True)
    while os.read(CONN_FD, 4096):  # until the agent is gone, or wants an end
        pass
    server.stop(1).wait()


main()
