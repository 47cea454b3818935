"""Groups, selections and inventories of Ansible: what is chosen, which values win, what fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.fleet import inventory
from edgekit.fleet.inventories.ansible import expand
from edgekit.fleet.inventories.read import read_hosts

FLEET = """
[devices]
pi-1 = {address = "ssh:pi-1", tags = ["pi", "hall"], site = "north"}
pi-2 = {address = "ssh:pi-2", tags = ["pi"], site = "south", threads = 4}
jetson-1 = {address = "ssh:jetson-1", tags = ["gpu"]}

[groups]
all-pis = ["pi-1", "pi-2"]

[groups.plant]
members = ["all-pis", "jetson-1"]
site = "plant"
threads = 2
tags = ["plant"]
broker = {host = "plant.example", port = 8883}

[groups.line]
members = ["jetson-1"]
threads = 3
broker = {port = 1884}
"""


def load(folder: Path, text: str) -> inventory.Fleet:
    (folder / "fleet.toml").write_text(text)
    return inventory.load(folder / "fleet.toml")


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("", "pi-1 pi-2 jetson-1"),
        ("pi-2 pi-1", "pi-2 pi-1"),
        ("pi-*", "pi-1 pi-2"),
        ("*-1", "pi-1 jetson-1"),
        ("pi-[2-9]", "pi-2"),
        ("all-pis", "pi-1 pi-2"),
        ("group:all-pis pi-1", "pi-1 pi-2"),
        ("plant", "pi-1 pi-2 jetson-1"),
        ("tag=pi", "pi-1 pi-2"),
        ("tag=gpu,pi-1", "jetson-1 pi-1"),
        ("site=south", "pi-2"),
        ("!pi-2", "pi-1 jetson-1"),
        ("plant !tag=gpu", "pi-1 pi-2"),
        ("!tag=gpu plant", "pi-1 pi-2"),
        ("plant,!pi-1,!pi-2", "jetson-1"),
        ("!pi-1,!pi-2", "jetson-1"),
        ("tag=pi,tag=gpu", "pi-1 pi-2 jetson-1"),
        ("tag=pi,!tag=hall", "pi-2"),
        ("!all-pis", "jetson-1"),
    ],
)
def test_words_choose_devices(tmp_path: Path, words: str, chosen: str) -> None:
    fleet = load(tmp_path, FLEET.replace("threads = 3\nbroker = {port = 1884}\n", ""))
    assert " ".join(fleet.select(words.split())) == chosen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pi-3", "did you mean 'pi-"),
        ("tag=pis", "did you mean 'pi'"),
        ("site=nort", "did you mean 'north'"),
        ("group:plan", "did you mean 'plant'"),
        ("!pi-9", "in '!pi-9'"),
        ("cam-*", "matches no device"),
        ("pi-1 !pi-*", "chooses no device"),
        ("plant !pi-1,pi-2", "write '!pi-1,!pi-2', or pi-2 as a word of its own"),
        ("pi-1,!pi-2,jetson-1", "can mean two things"),
        ("tag=pi,gpu", "write tag=gpu"),
        ("site=north,south", "write site=south"),
    ],
)
def test_a_word_that_names_nothing_is_refused(tmp_path: Path, words: str, said: str) -> None:
    fleet = load(tmp_path, FLEET.replace("threads = 3\nbroker = {port = 1884}\n", ""))
    with pytest.raises(UsageError) as caught:
        fleet.select(words.split())
    assert said in str(caught.value)


def test_a_name_of_a_device_and_a_group_is_not_guessed(tmp_path: Path) -> None:
    fleet = load(tmp_path, '[devices.a]\naddress="ssh:a"\n[devices.b]\naddress="ssh:b"\n'
                           '[groups]\na = ["b"]\n')  # fmt: skip
    with pytest.raises(UsageError, match="is a device and a group"):
        fleet.select(["a"])
    assert fleet.select(["group:a"]) == ["b"]


def test_a_device_has_its_own_values_then_those_of_its_groups(tmp_path: Path) -> None:
    inner = FLEET.replace('members = ["all-pis", "jetson-1"]', 'members = ["all-pis", "line"]')
    devices = load(tmp_path, inner).devices
    assert [devices[name].threads for name in ("pi-1", "pi-2", "jetson-1")] == [2, 4, 3]
    assert [devices[name].site for name in ("pi-1", "jetson-1")] == ["north", "plant"]
    assert devices["pi-1"].tags == ["pi", "hall", "plant"]
    assert devices["jetson-1"].broker == {"host": "plant.example", "port": 1884}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FLEET, "jetson-1 has two values for threads"),
        (FLEET.replace("threads = 3", "thread = 3"), "unknown field `thread`"),
        (FLEET.replace('["pi-1", "pi-2"]', '["pi-1", "pi-9"]'), "which is no device"),
        (FLEET.replace('["pi-1", "pi-2"]', '["pi-1", "plant"]'), "has itself"),
        (FLEET.replace("port = 8883", "porto = 8883"), "unknown field `porto`"),
        (FLEET.replace('site = "plant"', 'address = "ssh:x"'), "unknown field `address`"),
    ],
)
def test_a_group_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)


ANSIBLE = """
all:
  vars: {ansible_user: pi, edgekit_threads: 2, nginx_version: "{{ latest }}"}
  children:
    pis:
      hosts:
        pi-[01:03]: {edgekit_site: north}
        pi-02: {ansible_host: 192.0.2.7, ansible_port: 2222}
    six:
      hosts:
        v6: {ansible_host: "2001:db8::7", ansible_port: 22, ansible_user: null}
    here:
      hosts:
        desk: {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3.12}
"""


def test_an_inventory_of_ansible_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(ANSIBLE)
    fleet = load(tmp_path, 'inventories = ["hosts.yml"]\n[devices.pi-01]\nthreads = 1\n'
                           '[groups.pis]\ntags = ["pi"]\n')  # fmt: skip
    address = {name: device.address for name, device in fleet.devices.items()}
    assert address == {
        "pi-01": "ssh:pi@pi-01",
        "pi-02": "ssh:pi@192.0.2.7:2222",
        "pi-03": "ssh:pi@pi-03",
        "v6": "ssh:[2001:db8::7]:22",
        "desk": "local:.edgekit/devices/desk",
    }
    assert fleet.devices["desk"].python == "/usr/bin/python3.12"
    assert [fleet.devices[f"pi-0{n}"].threads for n in (1, 2, 3)] == [1, 2, 2]
    assert fleet.devices["pi-03"].site == "north"
    assert fleet.select(["tag=pi"]) == fleet.select(["pis"]) == ["pi-01", "pi-02", "pi-03"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ("ansible_ssh_private_key_file: ~/.ssh/x", "~/.ssh/config"),
        ("ansible_ssh_common_args: -J hop", "~/.ssh/config"),
        (
            "ansible_password: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        00",
            "ssh-copy-id",
        ),
        ('ansible_host: "{{ lookup }}"', "is a template"),
        ("ansible_connection: winrm", "winrm"),
        ("edgekit_thread: 2", "did you mean `threads`"),
        ("edgekit_threads: two", "Expected `int`"),
        ("ansible_user: yes", "ansible_user of a is no text"),
        ("ansible_host: [b]", "ansible_host of a is no text"),
        ('edgekit_tags: ["{{ t }}"]', "edgekit_tags of a is a template"),
        ("edgekit_site: '{% if x %}north{% endif %}'", "edgekit_site of a is a template"),
        ("edgekit_broker: {password_file: !vault x}", "edgekit_broker of a is a template"),
        ("ansible_paramiko_proxy_command: nc %h", "~/.ssh/config"),
    ],
)
def test_a_variable_that_cannot_be_honoured_is_refused(
    tmp_path: Path, variables: str, said: str
) -> None:
    (tmp_path / "hosts.yml").write_text(f"all:\n  hosts:\n    a:\n      {variables}\n")
    with pytest.raises(UsageError) as caught:
        load(tmp_path, 'inventories = ["hosts.yml"]\n')
    assert said in str(caught.value)
    assert "hosts.yml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hosts", "[pis]\na\n", "--yaml --export"),
        ("hosts.yml", "all: [a]", "is no mapping"),
        ("hosts.yml", "all: {host: {a: }}", "the key 'host'"),
        ("hosts.yml", "all: {hosts: {'a[3:1]': }}", "is no range"),
        ("hosts.yml", "a: {children: {b: {children: {a: }}}}", "has itself"),
        ("hosts.yml", "all: {hosts: {'a b': }}", "cannot be a device's name"),
        ("hosts.yml", "all:\n\thosts:", "cannot be read"),
        ("hosts.yml", "$ANSIBLE_VAULT;1.1;AES256\n00", "is encrypted"),
        ("hosts.yml", "a: {hosts: {x: }, vars: {v: 1}, hosts: {y: }}", "'hosts' is there twice"),
        ("hosts.yml", "a: {hosts: {x: }}\nb: {hosts: {z: }}\na: {hosts: {y: }}", "twice"),
        ("hosts.yml", "", "hosts.yml is empty"),
        ("hosts.yml", "# nothing\n---\n", "hosts.yml is empty"),
        ("hosts.yml", "plugin: amazon.aws.aws_ec2\nregions: [x]", "plugin amazon.aws.aws_ec2"),
        ("hosts.yml", "a: {hosts: {0123: }}", "the host 83 is no text"),
        ("hosts.yml", "a: {hosts: {on: }}", "the host True is no text"),
        ("hosts.yml", "a: {hosts: {1.10: }}", "put the name into quotes"),
        ("hosts.yml", "10: {hosts: {a: }}", "the group 10 is no text"),
        ("hosts.yml", "a: &x {children: {b: *x}}", "the group b has itself"),
        ("hosts.yml", "a: {hosts: {x: {v: 2026-13-45}}}", "cannot be read"),
        ("hosts.yml", "a: {hosts: {'x[1:99999999]': }}", "more than 100000 names"),
        ("hosts.yml", "a: {hosts: {'x[0:999]y[0:999]': }}", "more than 100000 names"),
        ("hosts.yml", "a: {hosts: {'x[1:99999999999999999999]': }}", "more than 100000 names"),
        ("hosts.yml", "a: {hosts: {'x[\u00b2:\u00b3]': }}", "is no range"),
        ("hosts.yml", "a: {vars: {ansible_group_priority: high}}", "ansible_group_priority"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, f'inventories = ["{name}"]\n')
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("echo '{'", "prints no JSON"),
        ("echo no cloud >&2; exit 3", "ended with 3"),
        ("echo null", "its output is no mapping"),
        ("printf '\\377\\376'", "prints no JSON"),
        ("kill -9 $$", "ended with -9"),
        ('echo \'{"a": {"hosts": "b"}}\'', "cannot be used"),
    ],
)
def test_a_program_that_fails_is_named(tmp_path: Path, program: str, said: str) -> None:
    (tmp_path / "cloud").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "cloud").chmod(0o755)
    with pytest.raises(UsageError) as caught:
        read_hosts(tmp_path / "cloud")
    assert said in str(caught.value)


HOSTVARS = '{"a": {"ansible_host": "192.0.2.1"}, "stranger": {}}'


@pytest.mark.parametrize(
    ("meta", "asked"), [("{}", "192.0.2.9"), (f'{{"hostvars": {HOSTVARS}}}', "192.0.2.1")]
)
def test_a_host_is_what_a_group_lists_and_has_its_own_address(
    tmp_path: Path, meta: str, asked: str
) -> None:
    (tmp_path / "cloud").write_text(
        "#!/bin/sh\nif [ $1 = --list ]; then "
        f'echo \'{{"g": {{"hosts": ["a", "b"]}}, "_meta": {meta}}}\'\n'
        'elif [ $2 = a ]; then echo \'{"ansible_host": "192.0.2.9"}\'; fi\n'
    )
    (tmp_path / "cloud").chmod(0o755)
    devices = load(tmp_path, 'inventories = ["cloud"]\n').devices
    assert {name: each.address for name, each in devices.items()} == {
        "a": f"ssh:{asked}",
        "b": "ssh:b",
    }


def test_values_beside_an_inventory_win_and_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {a: {edgekit_window: '01:00-02:00'}}}")
    text = 'inventories = ["hosts.yml"]\n[devices.a]\naddress = "ssh:b"\n'
    device = load(tmp_path, text).devices["a"]
    assert (device.address, device.window) == ("ssh:b", "01:00-02:00")
    with pytest.raises(UsageError, match="the device a is not valid"):
        load(tmp_path, 'inventories = ["hosts.yml"]\n[devices]\na = 5\n')


def test_a_device_in_a_group_of_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("db: {hosts: {db: }, children: {eu: {hosts: {db2: }}}}")
    fleet = load(tmp_path, 'inventories = ["hosts.yml"]\n[groups.db]\ntags = ["d"]\n')
    assert fleet.groups == {"db": ["db", "db2"], "eu": ["db2"]}
    assert [fleet.devices[name].tags for name in ("db", "db2")] == [["d"], ["d"]]
    both = '[devices.a]\naddress="ssh:a"\n[devices.b]\naddress="ssh:b"\n[groups]\na=["b"]\n'
    for members in ('a = ["a"]', 'a = ["b"]\nsite = ["a"]'):
        with pytest.raises(UsageError, match="'a', which is a device and a group"):
            load(tmp_path, both.replace('a=["b"]', members))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('address = "ssh:pi@h"', 'address = "ssh:pi@H:22"', True),
        ('address = "ssh:pi@h"', 'address = "ssh:ada@h"', False),
        ('address = "ssh:pi@h"', 'address = "ssh:pi@h:2222"', False),
        ('address = "ssh:pi@h"', 'address = "ssh:pi@h"\nroot = "/srv/b"', False),
        ('address = "ssh:a@h"\nroot = "/srv/x"', 'address = "ssh:b@h"\nroot = "/srv/x/"', True),
        ('address = "local:x"', 'address = "local:y/../x"', True),
        ('address = "local:x"', 'address = "local:link"', True),
        ('address = "pull:"', 'address = "pull:"', False),
    ],
)
def test_one_device_under_two_names_is_not_counted_twice(
    tmp_path: Path, one: str, other: str, same: bool
) -> None:
    (tmp_path / "link").symlink_to("x")
    fleet = load(tmp_path, f"[devices.a]\n{one}\n[devices.b]\n{other}\n")
    if same:
        with pytest.raises(UsageError, match="a and b are one device"):
            fleet.select([])
    assert fleet.select(["a"] if same else []) == (["a"] if same else ["a", "b"])


@pytest.mark.parametrize("word", ["site=", "tag=", "group:", "!site=", "pi-1,tag="])
def test_a_word_without_its_name_chooses_nothing(tmp_path: Path, word: str) -> None:
    (tmp_path / "fleet.toml").write_text('[devices.pi-1]\naddress = "ssh:pi-1"\n')
    with pytest.raises(UsageError, match="names no"):
        inventory.load(tmp_path / "fleet.toml").select([word])


@pytest.mark.parametrize("value", ['tags = ["a,b"]', 'tags = [""]', 'site = " n"', 'site = "\\n"'])
def test_a_tag_that_no_word_can_choose_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="cannot be chosen"):
        load(tmp_path, f'[devices.a]\naddress = "ssh:a"\n{value}\n')


def test_ranges_as_ansible_writes_them() -> None:
    assert expand("a[1:3]b[x:z:2]", "f") == [f"a{n}b{c}" for n in (1, 2, 3) for c in "xz"]
    assert expand("n[008:010]", "f") == ["n008", "n009", "n010"]


def test_five_thousand_devices_in_fifty_groups_are_read_in_seconds(tmp_path: Path) -> None:
    lines = [f'pi-{n} = {{address = "ssh:pi-{n}"}}' for n in range(5000)]
    groups = [
        f"[groups.g{g}]\nmembers = [{', '.join(repr(f'pi-{n}') for n in range(g, 5000, 5))}]\n"
        f'tags = ["t{g}"]'
        for g in range(50)
    ]
    began = time.process_time()
    fleet = load(tmp_path, "\n".join(["[devices]", *lines, *groups]))
    assert time.process_time() - began < 20  # quadratic ways take minutes
    assert len(fleet.select(["tag=t7", "!g8"])) == 999
