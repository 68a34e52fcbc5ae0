"""The RayJob manifest: what it says, what the schema and the rules refuse in it, and what becomes
of it at the driver.
"""

import copy
import http.server
import json
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.on_node import kuberay_entrypoint as kuberay_driver
from cluster.submission.handles import JobState
from cluster.submission.kuberay.kuberay_client import parse_status
from cluster.submission.kuberay.rayjob_manifest import manifest, render
from cluster.submission.kuberay.rules import SCHEMA, lint, schema_problems
from cluster.submission.settings import SubmissionSettings
from cluster.submission.submission import Submission
from orchestrator.errors import PlanError
from tests.places import ROOT

FULL_SCHEMA = ROOT.parent / "shared" / "contracts" / "kuberay" / "rayjobs.v1.strict.schema.json"
IMAGE = "registry.example/gigarestore@sha256:0123"
RUN = "0123456789ab"


def submission(
    arguments=("/data/in.tif", "/data/out.zarr", "--scale", "4"),
    output="/data/out.zarr",
    **sections,
):
    """Return a submission; keyword arguments are settings by section."""
    kuberay = {"image": IMAGE, "claims": ["scans:/data"], **sections.get("kuberay", {})}
    settings = SubmissionSettings.model_validate(
        {"submit": sections.get("submit", {}), "kuberay": kuberay}
    )
    return Submission(
        run_id=RUN,
        arguments=tuple(arguments),
        output=output,
        directory="/home",
        settings=settings,
        code=None,
    )


def everything():
    """Return a submission that uses every setting."""
    return submission(
        submit={
            "nodes": 3,
            "gpus": 2,
            "cpus": 8,
            "memory": "64G",
            "time": "2-00:00:00",
            "env": ["A=b"],
            "grace": 120,
        },
        kuberay={
            "namespace": "imaging",
            "service_account": "restorer",
            "secrets": ["AWS_SECRET_ACCESS_KEY=s3:key"],
            "tolerations": ["team=imaging:NoSchedule", "spot"],
            "node_selector": ["gpu=h200"],
            "queue": "night",
            "copy_to": "s3://bucket/out.zarr",
        },
    )


def pods(document):
    cluster = document["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]


def variables(pod):
    return {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}


def test_the_manifest_is_yaml_that_says_what_was_asked_for():
    document = yaml.safe_load(render(everything()))
    assert document == manifest(everything())
    spec = document["spec"]
    (head, worker) = pods(document)
    assert document["metadata"]["name"] == f"gr-out-{RUN}"
    assert document["metadata"]["namespace"] == "imaging"
    assert (spec["activeDeadlineSeconds"], spec["preRunningDeadlineSeconds"]) == (172800, 1800)
    assert (
        spec["shutdownAfterJobFinishes"],
        spec["ttlSecondsAfterFinished"],
        spec["backoffLimit"],
    ) == (True, 600, 3)
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["workerGroupSpecs"][0]["replicas"] == 3
    wanted = {"cpu": "8", "memory": "65536Mi", "nvidia.com/gpu": "2"}
    assert worker["containers"][0]["resources"] == {"requests": wanted, "limits": wanted}
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    for pod in (head, worker):
        assert pod["restartPolicy"] == "Never"
        assert pod["terminationGracePeriodSeconds"] > 120
        assert "ray stop" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]
        assert pod["serviceAccountName"] == "restorer"
        assert pod["nodeSelector"] == {"gpu": "h200"}
        assert {
            "key": "team",
            "operator": "Equal",
            "value": "imaging",
            "effect": "NoSchedule",
        } in pod["tolerations"]
        assert {"key": "spot", "operator": "Exists"} in pod["tolerations"]
        assert variables(pod)["A"] == "b"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in worker[
        "tolerations"
    ]
    assert variables(head)["RAY_JOB_STOP_WAIT_TIME_S"] == "120"


def test_outputs_lie_on_a_claim_that_all_pods_mount_and_are_copied_to_a_store():
    head, worker = pods(manifest(everything()))
    for pod in (head, worker):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {
            mount["mountPath"]: volumes[mount["name"]]
            for mount in pod["containers"][0]["volumeMounts"]
        }
        assert mounts["/data"]["persistentVolumeClaim"] == {"claimName": "scans"}
        assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
        assert mounts["/tmp"]["emptyDir"] == {"sizeLimit": "20Gi"}
        (secret,) = [e for e in pod["containers"][0]["env"] if "valueFrom" in e]
        assert secret == {
            "name": "AWS_SECRET_ACCESS_KEY",
            "valueFrom": {"secretKeyRef": {"name": "s3", "key": "key"}},
        }
    assert variables(head)["GIGARESTORE_COPY_TO"] == "s3://bucket/out.zarr"
    assert "GIGARESTORE_COPY_TO" not in variables(worker)
    assert "GIGARESTORE_COPY_TO" not in variables(pods(manifest(submission()))[0])


def test_with_a_queue_the_job_begins_suspended_and_without_one_it_does_not():
    queued = manifest(submission(kuberay={"queue": "night"}))
    plain = manifest(submission())
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
    assert queued["spec"]["suspend"] is True
    assert "kueue.x-k8s.io/queue-name" not in plain["metadata"]["labels"]
    assert plain["spec"]["suspend"] is False


@pytest.mark.parametrize("given", [submission(), everything()], ids=["least", "everything"])
def test_the_manifest_holds_by_our_schema_by_the_operators_and_by_the_rules(given):
    document = manifest(given)
    assert schema_problems(document) == []
    assert lint(document) == []
    if FULL_SCHEMA.exists():
        assert schema_problems(document, json.loads(FULL_SCHEMA.read_text())) == []


@pytest.mark.skipif(not FULL_SCHEMA.exists(), reason="the operator's full schema is not here")
def test_our_schema_is_a_part_of_the_operators():
    def compare(ours, theirs, place):
        for key, value in ours.items():
            if place == "$" and key in ("$comment", "$schema"):
                continue
            if key == "properties":
                for name, part in value.items():
                    if (place, name) != (
                        "$",
                        "metadata",
                    ):  # Kubernetes' own, which the operator leaves open
                        compare(part, theirs["properties"][name], f"{place}.{name}")
            elif key == "items":
                compare(value, theirs["items"], f"{place}[]")
            else:
                assert value == theirs[key], f"{place}: {key}"

    compare(json.loads(SCHEMA.read_text()), json.loads(FULL_SCHEMA.read_text()), "$")


CLUSTER = "spec/rayClusterSpec"
HEAD = f"{CLUSTER}/headGroupSpec"
WORKER = f"{CLUSTER}/workerGroupSpecs/0"
BY_SCHEMA = {
    "a misspelt field": ("spec/shutdownAfterJobFinish", True),
    "a misspelt field of a pod": (f"{WORKER}/template/spec/restartPolicies", "Never"),
    "a number as an environment value": (f"{HEAD}/template/spec/containers/0/env/0/value", 2000),
    "a number among Ray's parameters": (f"{HEAD}/rayStartParams/num-cpus", 0),
    "memory with a space": (
        f"{WORKER}/template/spec/containers/0/resources/limits/memory",
        "64 GB",
    ),
    "a mode in capitals": (f"{CLUSTER}/authOptions/mode", "Token"),
    "text as a number": ("spec/backoffLimit", "3"),
    "a fraction of a replica": (f"{WORKER}/replicas", 1.5),
    "no head": (HEAD, None),
    "no name of a group": (f"{WORKER}/groupName", None),
    "another kind": ("kind", "RayCluster"),
    "an endless wait for pods": ("spec/preRunningDeadlineSeconds", 0),
    "a claim without a name": (f"{WORKER}/template/spec/volumes/2/persistentVolumeClaim", {}),
    "a secret without a key": (
        f"{WORKER}/template/spec/containers/0/env/6/valueFrom/secretKeyRef",
        {"name": "s3"},
    ),
}
BY_RULE = {
    "a long name": ("metadata/name", "gr-" + "x" * 45),
    "a name that begins with a digit": ("metadata/name", "4images"),
    "a label of two words": ("metadata/labels/kueue.x-k8s.io~1queue-name", "two words"),
    "an unknown way to submit": ("spec/submissionMode", "K8sJob"),
    "a cluster that stays": ("spec/shutdownAfterJobFinishes", False),
    "retries below 0": ("spec/backoffLimit", -1),
    "no time": ("spec/activeDeadlineSeconds", 0),
    "a negative time to live": ("spec/ttlSecondsAfterFinished", -1),
    "retries of an interactive job": ("spec/submissionMode", "InteractiveMode"),
    "no cluster": (CLUSTER, None),
    "an old Ray with a token": (f"{CLUSTER}/rayVersion", "2.51.1"),
    "no version of Ray with a token": (f"{CLUSTER}/rayVersion", None),
    "an open cluster": (f"{CLUSTER}/authOptions/mode", "disabled"),
    "a queue that starts at once": ("spec/suspend", False),
    "a queue with autoscaling": (f"{CLUSTER}/enableInTreeAutoscaling", True),
    "workers on the head": (f"{HEAD}/rayStartParams/num-cpus", "4"),
    "a GPU for the head": (
        f"{HEAD}/template/spec/containers/0/resources/limits/nvidia.com~1gpu",
        "1",
    ),
    "more GPUs than asked for": (
        f"{WORKER}/template/spec/containers/0/resources/limits/nvidia.com~1gpu",
        "4",
    ),
    "pods that restart": (f"{WORKER}/template/spec/restartPolicy", "Always"),
    "shared memory beyond the limit": (
        f"{WORKER}/template/spec/volumes/0/emptyDir/sizeLimit",
        "64Gi",
    ),
    "endless shared memory": (f"{WORKER}/template/spec/volumes/0/emptyDir/sizeLimit", None),
    "no memory limit": (f"{WORKER}/template/spec/containers/0/resources/limits/memory", None),
    "no container": (f"{WORKER}/template/spec/containers", []),
    "no image": (f"{WORKER}/template/spec/containers/0/image", ""),
    "fewer replicas than least": (f"{WORKER}/replicas", 2),
    "labels for ray start": (f"{WORKER}/rayStartParams/labels", "a=b"),
    "fault tolerance by a variable": (
        f"{HEAD}/template/spec/containers/0/env/0/name",
        "RAY_REDIS_ADDRESS",
    ),
    "a shell's words in the entrypoint": ("spec/entrypoint", "python -m x '$(reboot)'"),
}


def mutated(path, value):
    """Return the manifest with what lies at a path of keys set, or deleted where the
    value is None.
    """
    document = copy.deepcopy(manifest(everything()))
    *parents, last = [int(k) if k.isdigit() else k.replace("~1", "/") for k in path.split("/")]
    place = document
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(("path", "value"), BY_SCHEMA.values(), ids=BY_SCHEMA)
def test_the_schema_refuses(path, value):
    document = mutated(path, value)
    assert schema_problems(document)
    if FULL_SCHEMA.exists():
        assert schema_problems(document, json.loads(FULL_SCHEMA.read_text()))


@pytest.mark.parametrize(("path", "value"), BY_RULE.values(), ids=BY_RULE)
def test_the_rules_refuse_what_the_schema_lets_pass(path, value):
    document = mutated(path, value)
    assert schema_problems(document) == []
    assert lint(document)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"clusterSelector": {"ray.io/cluster": "a"}, "backoffLimit": 1}, "clusterSelector"),
        (
            {"clusterSelector": {"ray.io/cluster": "a"}, "submissionMode": "SidecarMode"},
            "clusterSelector",
        ),
        (
            {"rayClusterSpec": {}, "submissionMode": "SidecarMode", "submitterConfig": {}},
            "SidecarMode",
        ),
        (
            {"shutdownAfterJobFinishes": True, "deletionStrategy": {"deletionRules": [{}]}},
            "deletionRules",
        ),
        ({"suspend": True, "clusterSelector": {"ray.io/cluster": "a"}}, "suspend needs"),
    ],
)
def test_the_rules_know_fields_that_we_never_write(spec, word):
    assert any(word in problem for problem in lint({"metadata": {"name": "a"}, "spec": spec}))


PATHS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=50)
@given(words=st.lists(PATHS, max_size=4), name=PATHS)
@pytest.mark.slow
def test_hostile_words_reach_the_driver_unchanged_and_never_a_shell(words, name):
    """Names of files and images are anybody's: quotes, dollars and spaces among them."""
    document = yaml.safe_load(render(submission((*words, "--scale", "4"), output=f"/data/{name}")))
    assert document["spec"]["entrypoint"] == "python -u -m cluster.on_node.kuberay_entrypoint"
    value = variables(pods(document)[0])["GIGARESTORE_DRIVER"]
    assert "$(" not in value.replace("$$", "")
    told = json.loads(value.replace("$$", "$"))  # what Kubernetes makes of it
    assert (
        told[told.index("--") + 1 :] == [*words, "--scale", "4"] if "--" not in words else told[-2:]
    )
    assert f"/data/{name}" in told


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"kuberay": {"image": None}}, "--image"),
        ({"submit": {"python": "python; reboot"}}, "--python"),
        ({"submit": {"nodes": 4, "min_nodes": 2}}, "--min-nodes"),
        ({"kuberay": {"ray_version": "2.40.0"}}, "rayVersion"),
        ({"kuberay": {"shared_memory": "16Gi"}}, "does not fit into the memory limit"),
        ({"kuberay": {"namespace": "No Such"}}, "namespace"),
    ],
)
def test_settings_that_would_fail_in_the_cluster_are_refused_here(sections, complaint):
    with pytest.raises(PlanError, match=complaint):
        render(submission(**sections))


def test_a_long_name_of_the_output_gives_a_name_that_kuberay_takes():
    given = submission(output=f"/data/{'Slide_' * 20}.zarr")
    name = manifest(given)["metadata"]["name"]
    assert len(name) <= 47
    assert name.endswith(f"-{RUN}")
    assert lint(manifest(given)) == []


# --- submission through kubectl -------------------------------------------------------------------

FAKE = """\
#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
given = sys.stdin.read() if "--filename=-" in sys.argv else ""
with open(here / "calls", "a") as log:
    log.write(json.dumps([sys.argv[1:], given]) + "\\n")
answer = json.loads((here / "answers.json").read_text()).get(sys.argv[1], ["", "", 0])
sys.stdout.write(answer[0]); sys.stderr.write(answer[1]); sys.exit(answer[2])
"""


class Kubectl:
    """A stand-in for kubectl that notes how it was called."""

    def __init__(self, folder):
        self.folder = folder
        path = folder / "kubectl"
        path.write_text(FAKE.format(python=sys.executable))
        path.chmod(0o755)
        self.answer()

    def answer(self, **answers):
        (self.folder / "answers.json").write_text(json.dumps(answers))

    @property
    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Kubectl(folder)


SUBMIT = ["submit", "/data/in.tif", "/data/out.zarr", "--scale", "4", "--backend", "kuberay"]
PLACES = ["--image", IMAGE, "--claim", "scans:/data"]


def rayjob(phase, job="", reason="", message="", **spec):
    status = {"jobDeploymentStatus": phase, "jobStatus": job, "reason": reason, "message": message}
    return json.dumps({"spec": spec, "status": status})


def test_a_dry_run_prints_the_manifest_and_calls_nobody(kubectl, cli):
    ended = cli(*SUBMIT, *PLACES, "--dry-run")
    assert ended.code == 0
    document = yaml.safe_load(ended.out)
    assert schema_problems(document) == lint(document) == []
    assert not (kubectl.folder / "calls").exists()


@pytest.mark.slow
def test_a_dry_run_needs_neither_torch_nor_ray():
    code = "import sys; from cluster.cli import _run; code = _run(sys.argv[1:]); "
    code += (
        "print(code, *(m for m in ('torch', 'ray', 'zarr') if m in sys.modules), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, *SUBMIT, *PLACES, "--dry-run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "0\n"


def test_submit_creates_the_manifest_and_prints_the_handle_alone(kubectl, cli):
    ended = cli(*SUBMIT, *PLACES, "--namespace", "imaging")
    assert ended.code == 0, ended.err
    ((words, text),) = kubectl.calls
    document = yaml.safe_load(text)
    assert words == ["create", "--filename=-"]
    assert ended.out == f"k8s:imaging/{document['metadata']['name']}\n"


def test_check_asks_the_server_and_creates_nothing(kubectl, cli):
    kubectl.answer(create=["rayjob.ray.io/x created (server dry run)\n", "", 0])
    ended = cli(*SUBMIT, *PLACES, "--check")
    assert (ended.code, ended.out) == (0, "")
    assert [words for words, _ in kubectl.calls] == [["create", "--dry-run=server", "--filename=-"]]


@pytest.mark.parametrize(
    ("said", "code", "complaint"),
    [
        ('error: no matches for kind "RayJob" in version "ray.io/v1"', 2, "no matches for kind"),
        (
            'Error from server (Forbidden): rayjobs.ray.io is forbidden: User "me" cannot create',
            2,
            "Forbidden",
        ),
        (
            "E1 memcache.go\nUnable to connect to the server: dial tcp: i/o timeout",
            69,
            "server: Unable to connect",
        ),
        (
            "The connection to the server localhost:8080 was refused - "
            "did you specify the right host or port?",
            69,
            "8080",
        ),
    ],
)
def test_what_kubectl_refuses_is_one_line(kubectl, cli, said, code, complaint):
    kubectl.answer(create=["", said, 1])
    ended = cli(*SUBMIT, *PLACES)
    assert ended.code == code
    assert complaint in ended.complaint


def test_without_kubectl_submitting_is_one_line_and_exit_2(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for command in (
        [*SUBMIT, *PLACES],
        ["wait", "k8s:default/x"],
        ["logs", "k8s:default/x"],
        ["cancel", "k8s:default/x"],
    ):
        ended = cli(*command)
        assert ended.code == 2
        assert "no kubectl on this machine" in ended.complaint
    assert cli(*SUBMIT, *PLACES, "--dry-run").code == 0


def test_a_list_is_not_spoilt_by_a_missing_kubectl(kubectl, cli, monkeypatch, tmp_path):
    handle = cli(*SUBMIT, *PLACES).out.strip()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli("list").out.startswith(f"{handle}  unknown  ")


def test_a_copy_goes_to_a_url(cli):
    ended = cli(*SUBMIT, *PLACES, "--copy-to", "bucket/out.zarr", "--dry-run")
    assert (ended.code, "--copy-to bucket/out.zarr is no URL" in ended.complaint) == (2, True)


@pytest.mark.parametrize(
    ("source", "out", "complaint"),
    [
        ("/data/in.tif", "/database/out.zarr", "OUT /database/out.zarr is on no volume"),
        ("/home/in.tif", "/data/out.zarr", "IN /home/in.tif is on no volume"),
        ("/data/in.tif", "/data/../etc/out.zarr", "on no volume"),
        ("/data/in.tif", "s3://bucket/out.zarr", "--copy-to"),
    ],
)
def test_files_that_no_pod_sees_are_refused(cli, source, out, complaint):
    ended = cli("submit", source, out, "--scale", "4", "--backend", "kuberay", *PLACES, "--dry-run")
    assert ended.code == 2
    assert complaint in ended.complaint


@pytest.mark.parametrize(
    ("answer", "state", "code"),
    [
        (rayjob("", suspend=True), JobState.PENDING, None),
        (rayjob("Initializing"), JobState.PENDING, None),
        (rayjob("Running", "PENDING"), JobState.PENDING, None),
        (rayjob("Running", "RUNNING"), JobState.RUNNING, None),
        (rayjob("Retrying", "FAILED"), JobState.REQUEUED, None),
        (rayjob("Complete", "SUCCEEDED"), JobState.SUCCEEDED, 0),
        (
            rayjob("Failed", "FAILED", "AppFailed", "command failed with exit code 2, last logs"),
            JobState.FAILED,
            2,
        ),
        (
            rayjob("Failed", "FAILED", "AppFailed", "command failed with exit code 75"),
            JobState.INTERRUPTED,
            75,
        ),
        (rayjob("Failed", "RUNNING", "DeadlineExceeded"), JobState.TIMEOUT, None),
        (rayjob("Failed", "", "PreRunningDeadlineExceeded"), JobState.FAILED, None),
        (rayjob("Complete", "STOPPED"), JobState.CANCELLED, None),
        (rayjob("Novel"), JobState.UNKNOWN, None),
        (json.dumps({}), JobState.PENDING, None),
    ],
)
def test_states_of_a_rayjob_are_read(answer, state, code):
    found = parse_status(json.loads(answer))
    assert (found.state, found.code) == (state, code)


@pytest.mark.slow
def test_status_logs_wait_and_cancel_ask_for_the_job_by_name(kubectl, cli):
    kubectl.answer(get=[rayjob("Failed", "FAILED", "AppFailed", "failed with exit code 9"), "", 0])
    assert cli("wait", "k8s:imaging/gr-x").code == 9
    assert cli("status", "k8s:imaging/gr-x").out.startswith("k8s:imaging/gr-x: failed (AppFailed")
    get = ["get", "rayjob.ray.io", "gr-x", "--namespace=imaging", "--output=json"]
    assert [words for words, _ in kubectl.calls] == [get, get]

    kubectl.answer(get=["gr-x-abc", "", 0], logs=["restored\n", "", 0])
    assert cli("logs", "k8s:imaging/gr-x").out == "restored\n"
    pods, logs = [words for words, _ in kubectl.calls[-2:]]
    assert pods[:4] == ["get", "pods", "--namespace=imaging", "--selector=job-name=gr-x"]
    assert logs == ["logs", "gr-x-abc", "--namespace=imaging"]

    kubectl.answer(get=[rayjob("Running", "RUNNING"), "", 0])
    assert cli("cancel", "k8s:imaging/gr-x", "--grace", "30").code == 0
    assert kubectl.calls[-1][0] == [
        "delete",
        "rayjob.ray.io",
        "gr-x",
        "--namespace=imaging",
        "--wait=true",
        "--timeout=90s",
    ]

    kubectl.answer(get=["", 'Error from server (NotFound): rayjobs.ray.io "gr-x" not found', 1])
    assert cli("wait", "k8s:imaging/gr-x").code == 75  # deleted: what was committed is kept


# --- what the head's pod runs ---------------------------------------------------------------------


class Store(http.server.BaseHTTPRequestHandler):
    """An S3 that takes whole objects, or none, and deletes the one that was a trial."""

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.takes:
            self.server.objects[self.path.partition("?")[0]] = body
        self.answer(200 if self.server.takes else 403)

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        gone = [
            name
            for name in self.server.objects
            if f"<Key>{name.removeprefix('/bucket/')}</Key>" in asked
        ]
        for name in gone:
            del self.server.objects[name]
        self.answer(200)

    def answer(self, code):
        self.send_response(code)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def store(monkeypatch):
    pytest.importorskip("obstore")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.objects = {}
    server.takes = True
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_store_that_takes_nothing_is_known_before_the_run(store, tmp_path, monkeypatch, capsys):
    store.takes = False
    out = str(tmp_path / "out")
    monkeypatch.setenv(
        "GIGARESTORE_DRIVER",
        json.dumps(["--output", out, "--folder", f"{out}/x", "--", "in.png", out]),
    )
    monkeypatch.setenv("GIGARESTORE_COPY_TO", "s3://bucket/done.zarr")
    monkeypatch.setenv("GIGARESTORE_SCRATCH", str(tmp_path))
    assert kuberay_driver.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "gigarestore: s3://bucket/done.zarr/.gigarestore-probe: cannot be written: "
    )
    assert line.endswith("check --copy-to and its credentials")
    assert list(tmp_path.iterdir()) == []


def begin(document, pod):
    """Start the entrypoint of a manifest as the head's pod would, with its variables; `pod` is the
    pod's scratch folder.
    """
    words = shlex.split(document["spec"]["entrypoint"])
    assert words.pop(0) == "python"
    head, _ = pods(document)
    env = {name: value.replace("$$", "$") for name, value in variables(head).items()}
    env |= {
        "GIGARESTORE_SCRATCH": str(pod),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_stop_hook(head, pod):
    """Run the preStop hook of a head's pod, with a `ray` of our own; return what it says."""
    fake = pod / "ray"
    fake.write_text("#!/bin/sh\necho stopped\n")
    fake.chmod(0o755)
    hook = head["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    hook = [word.replace("/tmp/", f"{pod}/") for word in hook]
    environment = {**os.environ, "PATH": f"{pod}:{os.environ['PATH']}"}
    stopped = subprocess.run(
        hook, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return stopped.stdout


def assert_copied(store, published):
    """Every published file is in the store, the root's metadata last, and nothing hidden."""
    copied = {name.partition("done.zarr/")[2]: body for name, body in store.objects.items()}
    assert {name: body for name, body in copied.items() if name in published} == published
    assert list(copied)[-1] == "zarr.json"
    assert not any(name.startswith(".") for name in copied)


@pytest.mark.ray
@pytest.mark.slow
def test_the_manifest_run_here_stops_gently_goes_on_and_copies_to_a_store(
    small, job, serially, tmp_path, published_files, store, eventually
):
    """Its entrypoint, variables and preStop hook, executed as a head's pod would; twice, as KubeRay
    retries.
    """
    serially(job(small, tmp_path / "reference", sampling={"steps": 30}))
    data = tmp_path / "it's $(data)"
    pod = tmp_path / "pod"
    for folder in (data, pod):
        folder.mkdir()
    (data / "in.png").write_bytes(small.read_bytes())
    out = data / "out.zarr"
    options = shlex.split("--scale 4 --tile 32 --stride 16 --levels 2 --intent detail --steps 30")
    given = submission(
        (str(data / "in.png"), str(out), *options, "--workers", "1"),
        output=str(out),
        kuberay={"copy_to": "s3://bucket/done.zarr", "claims": [f"scans:{data}"]},
    )
    document = yaml.safe_load(render(given))
    head, _ = pods(document)

    process = begin(document, pod)
    try:
        journal = out / ".gigarestore" / "journal"
        assert eventually(
            lambda: journal.exists() and journal.read_bytes().count(b"T ") >= 2, seconds=120
        )
        assert run_stop_hook(head, pod) == "stopped\n"
        assert process.wait(timeout=60) == 75, process.communicate()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    assert store.objects == {}
    assert 0 < journal.read_bytes().count(b"T ") < 24
    (pod / "gigarestore-stop").unlink()  # a retry has another pod

    again = begin(document, pod)
    told, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert published_files(out) == published_files(tmp_path / "reference")
    assert_copied(store, published_files(out))
    assert f"{len(store.objects)} objects" in told
