"""Settings of submissions: which source wins, what is refused and in whose name, and what `config
show` says of it.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.submission.settings import keys, load, mebibytes, seconds
from orchestrator.errors import PlanError

SOURCES = ("default", "user file", "project file", "environment", "flag")


@pytest.fixture
def told(tmp_path):
    """Load settings with submit.nodes said by each of the named sources: its place among them is
    the number.
    """

    def say(*sources):
        user = tmp_path / "home" / ".config" / "gigarestore"
        project = tmp_path / "project"
        environment = {"HOME": str(tmp_path / "home")}
        for folder in (user, project / "below" / "it"):
            folder.mkdir(parents=True, exist_ok=True)
        files = {"user file": user / "config.toml", "project file": project / "gigarestore.toml"}
        for source, path in files.items():
            path.unlink(missing_ok=True)
            if source in sources:
                path.write_text(f"[submit]\nnodes = {SOURCES.index(source) + 1}\n")
        if "environment" in sources:
            environment["GIGARESTORE_SUBMIT_NODES"] = str(SOURCES.index("environment") + 1)
        flags = {"submit.nodes": SOURCES.index("flag") + 1 if "flag" in sources else None}
        return load(flags, project / "below" / "it", environment)

    return say


@pytest.mark.parametrize("winner", range(len(SOURCES)), ids=SOURCES)
def test_the_nearest_source_wins_and_is_named(told, winner):
    loaded = told(*SOURCES[1 : winner + 1])
    assert loaded.settings.submit.nodes == winner + 1
    assert loaded.origins.get("submit.nodes", "default").startswith(SOURCES[winner])


def test_each_key_has_its_own_source(tmp_path):
    (tmp_path / "gigarestore.toml").write_text(
        '[submit]\nbackend = "slurm"\nnodes = 4\n[slurm]\noptions = ["--mail-type=END"]'
    )
    environment = {
        "HOME": str(tmp_path),
        "GIGARESTORE_SUBMIT_ENV": "A=1,B=2",
        "GIGARESTORE_RAY_SHIP": "no",
    }
    loaded = load({"submit.nodes": 2}, tmp_path, environment)
    assert (loaded.settings.submit.backend, loaded.settings.submit.nodes) == ("slurm", 2)
    assert loaded.settings.submit.env == ("A=1", "B=2")
    assert loaded.settings.slurm.options == ("--mail-type=END",)
    assert not loaded.settings.ray.ship
    assert {key: origin.split(" ")[0] for key, origin in loaded.origins.items()} == {
        "submit.backend": "project",
        "slurm.options": "project",
        "submit.env": "environment",
        "ray.ship": "environment",
        "submit.nodes": "flag",
    }


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("submit.nodes", "0", "greater than or equal to 1"),
        ("submit.nodes", "two", "valid integer"),
        ("submit.memory", "lots", "write for example 16G"),
        ("submit.memory", "0G", "no amount of memory"),
        ("submit.time", "1:30", "D-HH:MM:SS"),
        ("submit.time", "00:00:30", "less than a minute"),
        ("submit.env", "NOT A NAME=1", "write NAME=VALUE"),
        ("submit.backend", "pbs", "'slurm', 'ray' or 'kuberay'"),
        ("submit.on_node_fail", "cry", "'continue' or 'requeue'"),
        ("slurm.options", "-p x", "write --name or --name=value"),
        ("ray.dashboard", "localhost:8265", "write http://HOST:8265"),
        ("kuberay.secrets", "TOKEN=abc", "never with its value"),
        ("kuberay.claims", "data", "write CLAIM:/MOUNT"),
    ],
)
def test_a_wrong_value_is_refused_in_the_name_of_its_source(tmp_path, key, value, said):
    variable = f"GIGARESTORE_{key.replace('.', '_').upper()}"
    with pytest.raises(PlanError) as refused:
        load({}, tmp_path, {"HOME": str(tmp_path), variable: value})
    assert str(refused.value).startswith(f"{key} = ")
    assert f"(environment {variable})" in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[submit]\nnodse = 2", "unknown setting 'submit.nodse'"),
        ("nodes = 2", "'nodes' stands outside of a section"),
        ("[submit\n", "cannot read the settings"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, said):
    path = tmp_path / "gigarestore.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=r"gigarestore\.toml") as refused:
        load({}, tmp_path, {"HOME": str(tmp_path)})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_misspelt_setting_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "gigarestore.toml").write_text("[slurm]\npartitions = 'x'")
    with pytest.raises(PlanError, match=r"did you mean 'slurm.partition'\?"):
        load({}, tmp_path, {"HOME": str(tmp_path)})


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_times_are_read_as_slurm_writes_them(days, hours, minutes, rest):
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if total < 60:
        return
    assert seconds(f"{days}-{hours:02}:{minutes:02}:{rest:02}") == total
    assert seconds(f"{days * 24 + hours}:{minutes:02}:{rest:02}") == total
    if minutes:
        assert seconds(str(minutes)) == 60 * minutes


def test_amounts_of_memory_are_mebibytes():
    assert [mebibytes(text) for text in ("500", "500M", "16G", "16GiB", "1T")] == [
        500,
        500,
        16384,
        16384,
        1024**2,
    ]


def test_config_show_says_every_setting_and_where_it_is_from(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIGARESTORE_SUBMIT_NODES", "3")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gigarestore.toml").write_text('[submit]\nbackend = "ray"\nnodes = 9\n')
    lines = cli("config", "show", "--origin").out.splitlines()
    assert f'submit.backend = "ray"  # project file {tmp_path}/gigarestore.toml' in lines
    assert "submit.nodes = 3  # environment GIGARESTORE_SUBMIT_NODES" in lines
    assert "submit.cpus = 4  # default" in lines
    found = json.loads(cli("config", "show", "--json").out)
    assert list(found) == keys()
    assert found["submit.nodes"] == {"value": 3, "origin": "environment GIGARESTORE_SUBMIT_NODES"}
