"""What Ansible itself says of inventories: `python ansible_says.py FILE…` prints one JSON object.

For each file, or several with colons between: the variables of each host whose names begin with
`v`, and the hosts of each group.
"""

import json
import sys

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.vars.manager import VariableManager


def said(file: str) -> dict[str, object]:
    """Hosts with their variables, and groups with their hosts."""
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=file.split(":"))
    variables = VariableManager(loader=loader, inventory=inventory)
    hosts = {}
    for host in inventory.get_hosts():
        told = variables.get_vars(host=host, include_hostvars=False)
        hosts[host.name] = {name: told[name] for name in sorted(told) if name[0] == "v"}
    groups = {
        name: sorted({host.name for host in group.get_hosts()})
        for name, group in inventory.groups.items()
        if name not in ("all", "ungrouped")
    }
    return {"hosts": hosts, "groups": groups}


if __name__ == "__main__":
    init_plugin_loader()
    print(json.dumps({file: said(file) for file in sys.argv[1:]}))
