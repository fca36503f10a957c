"""A Hub small enough for tests: the endpoints that ``huggingface_hub`` asks for, on loopback, keeping what arrives.

It follows the client, not a description of the Hub: files go up through the LFS batch protocol or through Xet, whose
storage puts the chunks that it is sent together again; commits are the client's NDJSON, downloads are ``resolve``.
``drop`` makes it hang up in the middle of a request: a lost connection, seen from the other side.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import yaml

TOKEN = "hf_" + "loopbackSecret" * 2
READ_ONLY = "hf_" + "mayOnlyRead" * 3


class LoopbackHub:
    """``with LoopbackHub() as hub``: ``hub.url`` is the endpoint, ``hub.files(name)`` what a dataset holds."""

    def __init__(self):
        self.repositories = {}
        self.stored = {}
        self.chunks = []
        self.cut = []
        self.requests = Counter()
        self.drops = Counter()
        self.lock = threading.Lock()

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def create(self, name, files=(), *, private=False):
        self.repositories[name] = {"private": private, "files": dict(files), "commits": 0}
        return self.repositories[name]

    def files(self, name):
        return self.repositories[name]["files"]

    def drop(self, what, times=1):
        """Hang up the next ``times`` that ``what`` (PUT, create, commit, …) is asked for, half of it read."""
        self.drops[what] = times

    def joined(self, sha256):
        """The file of that hash, from chunks that came one behind the other."""
        for first in range(len(self.chunks)):
            for last in range(first, len(self.chunks)):
                data = b"".join(self.chunks[first : last + 1])
                if hashlib.sha256(data).hexdigest() == sha256:
                    return data
        raise KeyError(sha256)

    def sha(self, name):
        repository = self.repositories[name]
        listing = json.dumps([repository["commits"], sorted(repository["files"])])
        return hashlib.sha1(f"{name} {listing}".encode()).hexdigest()

    def tags(self, name):
        card = self.files(name).get("README.md", b"").decode()
        return (yaml.safe_load(card.split("---")[1]) or {}).get("tags", []) if card.startswith("---") else []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer_to("GET")

    def do_HEAD(self):
        self.answer_to("HEAD")

    def do_POST(self):
        self.answer_to("POST")

    def do_PUT(self):
        self.answer_to("PUT")

    def answer_to(self, method):
        path = unquote(urlsplit(self.path).path)
        found = (
            (match, name)
            for pattern, methods, name in _ROUTES
            if method in methods and (match := re.fullmatch(pattern, path))
        )
        match, name = next(found, (None, None))
        if match is None:
            self.body()
            self.send({"error": f"no such endpoint: {method} {path}"}, 404)
            return
        with self.hub.lock:
            self.hub.requests[name] += 1
            dropped = self.hub.drops[name] > 0
            self.hub.drops[name] -= dropped
        if dropped:
            half = self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.hub.cut.append(len(half))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.body()
        refusal = self.refusal(name)
        if refusal:
            self.send({"error": refusal[1]}, refusal[0], {"X-Error-Message": refusal[1]})
            return
        getattr(self, name)(body, *match.groups())

    def refusal(self, name):
        """(status, message) for a token that does not do; storage is reached by signed addresses, without one."""
        if name in ("PUT", "verify", "xorb", "shard", "chunk"):
            return None
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_ONLY):
            return 401, "Invalid credentials in Authorization header"
        if token == READ_ONLY and name in ("create", "commit", "preupload", "batch"):
            return 403, "You don't have the rights to create a dataset under this namespace"
        return None

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, content, status=200, headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), "Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # what the client asks for

    def info(self, _, name, *__):
        if name not in self.hub.repositories:
            self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        repository = self.hub.repositories[name]
        content = {"id": name, "sha": self.hub.sha(name), "private": repository["private"]}
        content |= {"siblings": [{"rfilename": path} for path in sorted(repository["files"])]}
        self.send(content | {"tags": self.hub.tags(name), "gated": False, "disabled": False})

    def create(self, body):
        wish = json.loads(body)
        name = f"{wish['organization']}/{wish['name']}"
        known = name in self.hub.repositories
        assert (wish.get("sdk") == "docker") == (wish.get("type") == "space")
        if not known:
            self.hub.create(
                name, {".gitattributes": b""}, private=wish.get("visibility", wish.get("private")) in ("private", True)
            )
        self.send({"url": f"{self.hub.url}/datasets/{name}"}, 409 if known else 200)

    def validate(self, body):
        yaml.safe_load(json.loads(body)["content"].split("---")[1])
        self.send({"errors": [], "warnings": []})

    def tree(self, _, name, *__):
        if name not in self.hub.repositories:
            self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = self.hub.files(name).items()
        self.send([{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files])

    def preupload(self, body, name):
        files = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith((".parquet", ".safetensors")) else "regular" for path in files}
        self.send({"files": [{"path": p, "uploadMode": modes[p], "shouldIgnore": False} for p in files]})

    def batch(self, body, name):
        objects = [{"oid": item["oid"], "size": item["size"]} for item in json.loads(body)["objects"]]
        for item in objects:
            if item["oid"] not in self.hub.stored:
                upload = {"href": f"{self.hub.url}/storage/{item['oid']}", "header": {}}
                item["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/verify", "header": {}}}
        self.send({"transfer": "basic", "objects": objects})

    def PUT(self, body, oid):  # noqa: N802
        if hashlib.sha256(body).hexdigest() != oid:
            self.send({"error": "these are other bytes"}, 400)
            return
        self.hub.stored[oid] = body
        self.send(b"")

    def verify(self, body):
        wish = json.loads(body)
        whole = len(self.hub.stored.get(wish["oid"], b"")) == wish["size"]
        self.send({}, 200 if whole else 404)

    def commit(self, body, name, _):
        repository = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository["files"][value["path"]] = self.hub.stored.get(value["oid"]) or self.hub.joined(value["oid"])
            elif line["key"] == "deletedFile":
                del repository["files"][value["path"]]
        repository["commits"] += 1
        address = f"{self.hub.url}/datasets/{name}/commit/{self.hub.sha(name)}"
        self.send({"commitUrl": address, "commitOid": self.hub.sha(name), "pullRequestUrl": None})

    def resolve(self, _, name, __, path):
        data = self.hub.files(name).get(path)
        if data is None:
            self.send({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        self.send(data, 200, {"X-Repo-Commit": self.hub.sha(name), "ETag": f'"{_oid(data)}"'})

    # Xet's storage

    def xet_token(self, _, name, *__):
        content = {"casUrl": self.hub.url, "exp": 4_000_000_000, "accessToken": "storage"}
        headers = {"X-Xet-Cas-Url": self.hub.url, "X-Xet-Token-Expiration": 4_000_000_000}
        self.send(content, 200, headers | {"X-Xet-Access-Token": "storage"})

    def chunk(self, _, *__):
        self.send({"error": "unknown chunk"}, 404)

    def xorb(self, body, name):
        self.hub.chunks += _chunks(body)
        self.send({"was_inserted": True})

    def shard(self, body, *_):
        self.send({"result": 1})


def _chunks(xorb):
    """The chunks of a xorb: a version, a compressed length, the kind of compression, a length; then the bytes."""
    position = 0
    while position + 8 <= len(xorb) and xorb[position] == 0:
        packed, kind, size = (int.from_bytes(xorb[position + a : position + b], "little") for a, b in _HEADER)
        data = xorb[position + 8 : position + 8 + packed]
        position += 8 + packed
        chunk = data if kind == 0 else pa.decompress(data, decompressed_size=size, codec="lz4", asbytes=True)
        yield chunk if kind < 2 else _interleaved(chunk)


_HEADER = ((1, 4), (4, 5), (5, 8))


def _interleaved(groups):
    """Bytes that were sorted by their place modulo four, in their order again."""
    chunk, start = bytearray(len(groups)), 0
    for place in range(4):
        count = len(range(place, len(groups), 4))
        chunk[place::4] = groups[start : start + count]
        start += count
    return bytes(chunk)


def _oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"/api/repos/create", {"POST"}, "create"),
    (r"/api/validate-yaml", {"POST"}, "validate"),
    (rf"/api/(?:datasets|models|spaces)/{_NAME}/preupload/main", {"POST"}, "preupload"),
    (rf"/api/(?:datasets|models|spaces)/{_NAME}/commit/(main)", {"POST"}, "commit"),
    (rf"/api/(?:datasets|models|spaces)/{_NAME}/tree/([^/]+)", {"GET"}, "tree"),
    (rf"/api/(?:datasets|models|spaces)/{_NAME}/xet-write-token/(.+)", {"GET"}, "xet_token"),
    (rf"/api/(?:datasets|models|spaces)/{_NAME}(?:/revision/([^/]+))?", {"GET"}, "info"),
    (rf"/(?:(?:datasets|spaces)/)?{_NAME}\.git/info/lfs/objects/batch", {"POST"}, "batch"),
    (rf"/(?:(?:datasets|spaces)/)?{_NAME}/resolve/([^/]+)/(.+)", {"GET", "HEAD"}, "resolve"),
    (r"/storage/(\w+)", {"PUT"}, "PUT"),
    (r"/verify", {"POST"}, "verify"),
    (r"/v1/chunks/.+", {"GET"}, "chunk"),
    (r"/v1/xorbs/default/(.+)", {"POST"}, "xorb"),
    (r"/(?:v1/)?shards", {"POST"}, "shard"),
]
