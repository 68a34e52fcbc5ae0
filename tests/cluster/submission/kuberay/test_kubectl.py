"""The real kubectl, where there is one, with our argument lines, against as much of an API server
as it asks for.
"""

import http.server
import json
import shutil
import threading
import urllib.parse

import pytest

from tests.cluster.submission.kuberay.test_kuberay import PLACES, SUBMIT

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="there is no kubectl on this machine"
)

JOBS = "/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
VERBS = ["create", "get", "list", "delete", "watch"]
KIND = {"group": "ray.io", "version": "v1", "kind": "RayJob"}
VALIDATED = {
    "x-kubernetes-group-version-kind": KIND,
    "parameters": [{"name": "fieldValidation", "in": "query"}],
}
VERSION = {"groupVersion": "ray.io/v1", "version": "v1"}
PODS = [
    {"name": name, "singularName": "", "namespaced": True, "kind": "Pod", "verbs": VERBS}
    for name in ("pods", "pods/log")
]
DISCOVERY = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "ray.io", "versions": [VERSION], "preferredVersion": VERSION}],
    },
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": PODS},
    "/apis/ray.io/v1": {
        "kind": "APIResourceList",
        "groupVersion": "ray.io/v1",
        "resources": [
            {
                "name": "rayjobs",
                "singularName": "rayjob",
                "namespaced": True,
                "kind": "RayJob",
                "verbs": VERBS,
            }
        ],
    },
    "/openapi/v3": {
        "paths": {"apis/ray.io/v1": {"serverRelativeURL": "/openapi/v3/apis/ray.io/v1"}}
    },
    "/openapi/v3/apis/ray.io/v1": {
        "openapi": "3.0.0",
        "paths": {JOBS: {"post": VALIDATED}, f"{JOBS}/{{name}}": {"patch": VALIDATED}},
    },
    "/api/v1/namespaces/imaging": {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": "imaging"},
    },
}


class Api(http.server.BaseHTTPRequestHandler):
    """Keep RayJobs and pods; answer nothing that kubectl does not ask."""

    def answer(self, found, code=200):
        if found is None:
            code = 404
            found = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "NotFound",
                "code": 404,
            }
        body = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(code)
        self.send_header(
            "Content-Type", "text/plain" if isinstance(found, str) else "application/json"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        asked = urllib.parse.parse_qs(query)
        if path in DISCOVERY:
            self.answer(DISCOVERY[path])
        elif path == "/api/v1/namespaces/imaging/pods":
            name = asked["labelSelector"][0].removeprefix("job-name=")
            pods = [
                pod for pod in self.server.pods if pod["metadata"]["labels"]["job-name"] == name
            ]
            self.answer({"kind": "PodList", "apiVersion": "v1", "items": pods})
        elif path.endswith("/log"):
            texts = self.server.logs.get(path.split("/")[-2], ["restored\n"])
            self.answer(texts[0])
            if len(texts) > 1 and texts.pop(0) and len(texts) == 1:
                (job,) = self.server.jobs.values()
                job["status"] = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
        elif "/pods/" in path:
            self.answer(
                next(
                    pod
                    for pod in self.server.pods
                    if pod["metadata"]["name"] == path.split("/")[-1]
                )
            )
        else:
            self.answer(self.server.jobs.get(path.split("/")[-1]))

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "dryRun=All" not in self.path:
            assert "fieldValidation=Strict" in self.path
            self.server.jobs[job["metadata"]["name"]] = job
        self.answer(job, 201)

    def do_DELETE(self):
        job = self.server.jobs.pop(self.path.partition("?")[0].split("/")[-1])
        self.answer(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Success",
                "details": {"uid": "1", **job["metadata"]},
            }
        )

    def log_message(self, *_):
        pass


@pytest.fixture
def api(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.jobs = {}
    server.pods = []
    server.logs = {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    context = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    (tmp_path / "config").write_text(json.dumps(context))
    for name, value in {
        "KUBECONFIG": tmp_path / "config",
        "HOME": tmp_path,
        "XDG_STATE_HOME": tmp_path / "state",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def submitter(pod, job, day):
    """Return the pod that follows a job's log."""
    made = f"2024-01-0{day}T00:00:00Z"
    metadata = {
        "name": pod,
        "namespace": "imaging",
        "labels": {"job-name": job},
        "creationTimestamp": made,
    }
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"containers": [{"name": "ray-job-submitter"}]},
    }


@pytest.mark.slow
def test_a_job_is_checked_created_looked_at_and_deleted(api, cli):
    command = [*SUBMIT, *PLACES, "--namespace", "imaging"]
    checked = cli(*command, "--check")
    assert (checked.code, api.jobs) == (0, {}), checked.err
    submitted = cli(*command)
    assert submitted.code == 0, submitted.err
    handle = submitted.out.strip()
    ((name, job),) = api.jobs.items()
    assert handle == f"k8s:imaging/{name}"
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 1

    assert cli("status", handle).out == f"{handle}: pending\n"
    job["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    assert cli("status", handle).out == f"{handle}: running\n"
    api.pods = [submitter("late", name, 2), submitter("early", name, 1)]
    api.logs = {"late": ["late\n"], "early": ["early\n"]}
    assert cli("logs", handle).out == "late\n"

    cancelled = cli("cancel", handle, "--grace", "5")
    assert (cancelled.code, api.jobs) == (0, {}), cancelled.err
    gone = cli("wait", handle)
    assert (gone.code, "it was deleted" in gone.err) == (75, True)

    again = cli("resume", handle)
    assert again.code == 0, again.err
    ((second, job),) = api.jobs.items()
    assert again.out.strip() == f"k8s:imaging/{second}" != handle
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (driver,) = [
        json.loads(entry["value"]) for entry in head["env"] if entry["name"] == "GIGARESTORE_DRIVER"
    ]
    assert driver[driver.index("--") - 2 : driver.index("--")] == [
        "--earlier",
        handle.rpartition("-")[2],
    ]
    listed = [line.split("  ")[:2] for line in cli("list").out.splitlines()]
    assert sorted(listed) == sorted([[f"k8s:imaging/{second}", "pending"], [handle, "cancelled"]])


@pytest.mark.slow
def test_a_followed_log_that_breaks_off_is_printed_once_and_to_its_end(api, cli):
    """kubectl ends a stream for many reasons while the job runs; what it sends then begins at the
    log's start.
    """
    handle = cli(*SUBMIT, *PLACES, "--namespace", "imaging").out.strip()
    ((name, job),) = api.jobs.items()
    job["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    api.pods = [submitter("a", name, 1)]
    api.logs = {"a": ["one\n", "one\ntwo\n", "one\ntwo\nthree\n"]}
    assert cli("logs", "--follow", handle).out == "one\ntwo\nthree\n"
    assert cli("wait", handle).code == 0


def test_a_server_that_is_gone_is_unreachable_and_one_line(api, cli, tmp_path):
    context = json.loads((tmp_path / "config").read_text())
    context["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    (tmp_path / "config").write_text(json.dumps(context))
    ended = cli(*SUBMIT, *PLACES)
    assert ended.code == 69
    assert "kubectl cannot reach its server" in ended.complaint
    assert cli("status", "k8s:imaging/x").out.startswith(
        "k8s:imaging/x: unknown (kubectl cannot reach its server: The conn"
    )
