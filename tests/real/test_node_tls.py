"""Mutual TLS between real nodes and clients: it works with certificates of one authority, and not without."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cluster import LocalCluster, wait_until

from orchestrator_proto import ledger_pb2 as pb
from raft_service.config import TlsFiles
from raft_service.rpc.client import Client, ControlPlaneUnavailable

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificates(folder: Path) -> TlsFiles:
    """An authority and one certificate of it for 127.0.0.1."""
    folder.mkdir()
    names = {name: str(folder / name) for name in ("ca.key", "ca.pem", "key.pem", "request.pem", "cert.pem", "names")}
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        "req", "-x509", *curve, "-keyout", names["ca.key"], "-out", names["ca.pem"], "-subj", "/CN=test", "-days", "2"
    )
    openssl("req", "-new", *curve, "-keyout", names["key.pem"], "-out", names["request.pem"], "-subj", "/CN=node")
    Path(names["names"]).write_text("subjectAltName=IP:127.0.0.1\n")
    signing = ["-CA", names["ca.pem"], "-CAkey", names["ca.key"], "-CAcreateserial", "-extfile", names["names"]]
    openssl("x509", "-req", "-in", names["request.pem"], "-out", names["cert.pem"], *signing, "-days", "2")
    return TlsFiles(cert=folder / "cert.pem", key=folder / "key.pem", ca=folder / "ca.pem")


def task(name: str) -> pb.TaskSpec:
    return pb.TaskSpec(task_id=f"step/{name}", kind=pb.TASK_KIND_STEP)


def test_only_holders_of_a_certificate_are_served(tmp_path: Path) -> None:
    ours, foreign = certificates(tmp_path / "ours"), certificates(tmp_path / "foreign")
    env = {
        "ORCHESTRATOR_TLS_CERT": str(ours.cert),
        "ORCHESTRATOR_TLS_KEY": str(ours.key),
        "ORCHESTRATOR_TLS_CA": str(ours.ca),
    }
    cluster = LocalCluster(tmp_path, env=env)
    try:
        for name in cluster.names:
            cluster.spawn(name)
        for process in cluster.processes.values():
            process.wait_ready()
        with Client(cluster.endpoints, name="ours", tls=ours) as client:
            assert client.submit_tasks([task("tls/a/0")]) == [pb.TASK_STATE_QUEUED]
            wait_until(
                lambda: all(not isinstance(answer, str) for _, answer in client.statuses()), what="all nodes answer"
            )
        for name, tls in (("plain", None), ("foreign", foreign)):
            with (
                Client(cluster.endpoints, name=name, tls=tls, deadline_s=1) as stranger,
                pytest.raises(ControlPlaneUnavailable),
            ):
                stranger.submit_tasks([task("tls/b/0")])
    finally:
        cluster.stop()
