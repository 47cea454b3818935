"""Inventories of Ansible mean to edgekit what they mean to Ansible: hosts, groups and values."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit.fleet.inventories import ansible
from edgekit.fleet.inventories.read import add_files, read_hosts

SCRIPT = Path(__file__).parents[1] / "harness/ansible_says.py"
RANDOM_ONES = 120


def read_all(*files: Path) -> ansible.Hosts:
    """Inventories as Ansible reads them one after the other."""
    found = ansible.Hosts()
    for file in files:
        found.join(read_hosts(file))
    for file in files:
        add_files(found, file)
    return found


WRITTEN = {
    "ranges": {
        "all": {
            "hosts": {"pi[08:11]": {"v": 1}, "cam-[a:e:2]": None, "x[1:2]y[a:b]": {"w": 2}},
            "children": {"half": {"hosts": {"pi[08:09]": {"v": 3}}}},
        }
    },
    "nested": {
        "plant": {
            "vars": {"v": "plant", "v2": "plant"},
            "children": {
                "hall": {"vars": {"v": "hall"}, "hosts": {"a": None, "b": {"v": "own"}}},
                "line": {"vars": {"v": "line", "v3": 1}, "hosts": {"a": None}},
            },
        },
        "all": {"vars": {"v": "all", "v4": [1, {"deep": True}]}},
    },
    "a group in two places": {
        "one": {"children": {"both": {"hosts": {"a": None}, "vars": {"v": 1}}}},
        "two": {"children": {"both": {"vars": {"v2": 2}}}, "vars": {"v": "two"}},
    },
    "priority": {
        "x": {"hosts": {"a": None}, "vars": {"v": "x", "ansible_group_priority": 10}},
        "y": {"hosts": {"a": None}, "vars": {"v": "y"}},
    },
    "no group": {"ungrouped": {"hosts": {"lone": {"v": 1}}}},
    "empty": {"all": None},
}


def random_inventory(seed: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A tree of groups, and variables for `group_vars` and `host_vars`."""
    chance = random.Random(seed)
    names = [f"g{number}" for number in range(chance.randint(2, 7))]
    hosts = [f"h{number}" for number in range(chance.randint(1, 6))]

    def values() -> dict[str, Any]:
        return {f"v{chance.randint(0, 4)}": chance.randint(0, 99) for _ in range(2)}

    tree: dict[str, Any] = {}
    for at, name in enumerate(names):
        group: dict[str, Any] = {"vars": values()} if chance.random() < 0.7 else {}
        if chance.random() < 0.2:
            group.setdefault("vars", {})["ansible_group_priority"] = chance.randint(1, 3)
        chosen = chance.sample(hosts, chance.randint(0, len(hosts)))
        group["hosts"] = {h: values() if chance.random() < 0.2 else None for h in chosen}
        below = chance.sample(names[at + 1 :], chance.randint(0, len(names) - at - 1))
        group["children"] = dict.fromkeys(below[:2])
        tree[name] = group
    if chance.random() < 0.5:
        tree["all"] = {"vars": values(), "hosts": {hosts[0]: values()}}
    some = [name for name in (*names, "all") if chance.random() < 0.3]
    return tree, {n: values() for n in some}, {h: values() for h in hosts if chance.random() < 0.3}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict[str, Any]]:
    """Every inventory with what Ansible says of it."""
    files = []
    for name, tree in WRITTEN.items():
        file = tmp_path_factory.mktemp("written") / "hosts.yml"
        file.write_text(f"# {name}\n{yaml.safe_dump(tree, sort_keys=False)}")
        files.append(file)
    for seed in range(RANDOM_ONES):
        folder = tmp_path_factory.mktemp("random")
        tree, group_vars, host_vars = random_inventory(seed)
        for kind, told in (("group_vars", group_vars), ("host_vars", host_vars)):
            (folder / kind).mkdir()
            for name, values in told.items():
                (folder / kind / f"{name}.yml").write_text(yaml.safe_dump(values))
        (folder / "hosts.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        files.append(folder / "hosts.yaml")
    done = subprocess.run(
        [sys.executable, SCRIPT, *files], capture_output=True, text=True, check=True, timeout=300
    )
    return {Path(file): said for file, said in json.loads(done.stdout).items()}


def test_hosts_groups_and_values_are_ansibles(cases: dict[Path, dict[str, Any]]) -> None:
    assert len(cases) == len(WRITTEN) + RANDOM_ONES
    seen = 0
    for file, said in cases.items():
        found = read_all(file)
        members = ansible.members(found, str(file))
        told = ansible.variables(found, members, str(file))
        ours = {
            host: {name: values[name] for name in sorted(values) if name[0] == "v"}
            for host, values in told.items()
        }
        assert ours == said["hosts"], file.read_text()
        groups = {n: sorted(m) for n, m in members.items() if n not in ("all", "ungrouped")}
        assert groups == said["groups"], file.read_text()
        seen += len(ours)
    assert seen > RANDOM_ONES


RAW = """
web: &web
  hosts: {"pi-[0:3]": , "n[:2]": , "cam:2222": {v1: 1}, "cam:2022": , "far:22": {ansible_port: 23}}
  vars: &vars {v2: 2, v3: !unsafe 3, v4: !unsafe [a, {b: 4}]}
old:
  children: web
  hosts: pi-9
  vars: {<<: *vars, v2: 22}
pi.local:
  hosts: {pi.local: , pi: }
"""
FILES = {
    "group_vars/web.yml": "v5: yml",
    "group_vars/web.yml~": "v5: backup",
    "group_vars/web.bak": "v5: bak",
    "group_vars/old": "v6: bare",
    "group_vars/old.yml": "v6: yml",
    "group_vars/all/b.yml": "v7: b",
    "group_vars/all/a": "v7: a",
    "group_vars/all/c.yml~": "v7: backup",
    "group_vars/all/.hidden/d.yml": "v7: hidden",
    "group_vars/all/deep/e.json": '{"v8": 8}',
    "group_vars/all/deep.d/f.yml": "v8: skipped",
    "group_vars/all.yml": "v7: all.yml",
    "host_vars/pi.local": "v9: local",
    "host_vars/pi.yaml": "v9: pi",
    "host_vars/pi.json": '{"v9": "json"}',
}


def test_files_of_variables_and_written_forms_are_ansibles(tmp_path: Path) -> None:
    for name, content in ({"hosts.yml": RAW} | FILES).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    file = tmp_path / "hosts.yml"
    done = subprocess.run(
        [sys.executable, SCRIPT, file], capture_output=True, text=True, check=True, timeout=99
    )
    said = json.loads(done.stdout)[str(file)]
    found = read_all(file)
    members = ansible.members(found, str(file))
    told = ansible.variables(found, members, str(file))
    ours = {h: {n: v for n, v in values.items() if n[0] == "v"} for h, values in told.items()}
    assert ours == said["hosts"]
    assert {n: sorted(m) for n, m in members.items() if n not in ("all", "ungrouped")} == (
        said["groups"]
    )
    assert (told["cam"]["ansible_port"], told["far"]["ansible_port"]) == (2022, 23)


def test_several_inventories_are_one_as_ansibles(tmp_path: Path) -> None:
    one, two = tmp_path / "a/one.yml", tmp_path / "b/two.yml"
    for name, content in {
        "a/one.yml": "web: {hosts: {x: {v1: 1}}, vars: {v2: one, v3: one}, children: {db: }}",
        "a/group_vars/web.yml": "v4: a",
        "a/group_vars/late.yml": "v6: a",
        "b/two.yml": "web: {hosts: {y: }, vars: {v3: two}}\nlate: {hosts: {x2: }}\n"
        "db: {hosts: {z: }, vars: {v7: db}}",
        "b/group_vars/web.yml": "v4: b\nv5: b",
        "b/host_vars/x.yml": "v1: b",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    asked = f"{one}:{two}"
    done = subprocess.run(
        [sys.executable, SCRIPT, asked], capture_output=True, text=True, check=True, timeout=99
    )
    found = read_all(one, two)
    members = ansible.members(found, asked)
    assert ansible.variables(found, members, asked) == json.loads(done.stdout)[asked]["hosts"]


def test_a_program_is_asked_as_ansible_asks_it(tmp_path: Path) -> None:
    tree = {
        "pis": {"hosts": ["a", "b"], "vars": {"v": 1}},
        "short": ["c"],
        "both": {"children": ["pis", "short"], "vars": {"v2": 2}},
    }
    hostvars = {"a": {"v": 5}, "b": {}, "c": {"v3": [3]}}
    whole, each = tmp_path / "whole", tmp_path / "each"
    whole.write_text(
        f"#!/bin/sh\ncat <<'E'\n{json.dumps(tree | {'_meta': {'hostvars': hostvars}})}\nE\n"
    )
    each.write_text(
        "#!/bin/sh\nif [ $1 = --list ]; then\ncat <<'E'\n"
        f"{json.dumps(tree)}\nE\nelif [ $2 = a ]; then echo '{json.dumps(hostvars['a'])}'\n"
        f"elif [ $2 = c ]; then echo '{json.dumps(hostvars['c'])}'\nelse echo '{{}}'; fi\n"
    )
    for program in (whole, each):
        program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, SCRIPT, whole, each],
        capture_output=True,
        text=True,
        check=True,
        timeout=99,
    )
    for file, said in json.loads(done.stdout).items():
        found = read_all(Path(file))
        members = ansible.members(found, file)
        assert {n: sorted(m) for n, m in members.items()} == said["groups"]
        assert ansible.variables(found, members, file) == said["hosts"]
