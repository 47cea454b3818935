"""The files of docs/integrations: they name what edgekit exports, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from edgekit.agent.serve.session.events import Readings
from edgekit.agent.serve.session.metrics import Metrics, Now
from edgekit.core.protocol.exposition import prometheus
from edgekit.gateway import counted
from edgekit.gateway.catalog import Served
from tests import tools

FOLDER = Path(__file__).parents[2] / "docs" / "integrations"
RULES = FOLDER / "prometheus-rules.yaml"
NAME = re.compile(r"\b(?:edgekit|gen_ai)_[a-z_]+\b")
TEST = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'edgekit_gateway_broker_connected{{instance="g"}}', values: '0x30'}}
      - {{series: 'edgekit_gateway_devices{{instance="g",state="lost"}}', values: '2x30'}}
      - {{series: 'edgekit_gateway_requests_total{{instance="g",status="503"}}', values: '0+9x30'}}
      - {{series: 'edgekit_gateway_requests_total{{instance="g",status="200"}}', values: '0+60x30'}}
      - {{series: 'edgekit_soc_temp_celsius{{instance="d"}}', values: '85x30'}}
      - {{series: 'edgekit_soc_temp_celsius{{instance="calm"}}', values: '50x30'}}
      - {{series: 'edgekit_mem_free_bytes{{instance="d"}}', values: '5e7x30'}}
      - {{series: 'edgekit_worker_restarts_total{{instance="d"}}', values: '0+1x30'}}
      - {{series: 'edgekit_rejected_total{{instance="d",code="queue_full"}}', values: '0+20x30'}}
      - {{series: 'edgekit_queue_depth{{instance="d"}}', values: '8x30'}}
    promql_expr_test:
      - expr: count by (alertname) (ALERTS{{alertstate="firing"}})
        eval_time: 28m
        exp_samples: {samples}
"""


def exported() -> str:
    """What an agent and a gateway say to Prometheus, with a value of each kind."""
    metrics = Metrics("smollm2", "1", "sha256:0", "0")
    metrics.ended(1.0, "")
    metrics.rejected["queue_full"] += 1
    metrics.rules["hot", "asked"] += 1
    counts: Any = SimpleNamespace(
        known={"pi-1": SimpleNamespace(state="lost")}, requests=Counter({200: 1}), streams=1,
        elsewhere=0, connected=True,
    )  # fmt: skip
    assert hasattr(Served, "state") or "state" in Served.__struct_fields__
    device = prometheus(metrics.families(Now(1, 1, 0, Readings(50, 700))))
    return f"{_text(device)}{_text(prometheus(counted.families(counts)))}"


def _text(told: str | bytes) -> str:
    return told.decode() if isinstance(told, bytes) else told


def names() -> set[str]:
    """The names of series, and of labels."""
    return set(re.findall(r"^(\w+)", exported(), re.MULTILINE)) | set(
        re.findall(r"(\w+)=", exported())
    )


def test_the_dashboard_names_metrics_that_there_are() -> None:
    board = json.loads((FOLDER / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in NAME.findall(query)}
    assert len(asked) >= 12
    assert asked <= names(), asked - names()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)


def test_the_alerts_name_metrics_that_there_are() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    asked = {name for rule in rules for name in NAME.findall(rule["expr"])}
    assert asked <= names(), asked - names()
    done = subprocess.run([tools.find("promtool"), "check", "rules", str(RULES)], check=False)
    assert done.returncode == 0


def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = sorted(rule["alert"] for group in groups for rule in group["rules"])
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts]
    test = tmp_path / "test.yaml"
    test.write_text(TEST.format(rules=RULES, samples=json.dumps(samples)))
    done = subprocess.run(
        [tools.find("promtool"), "test", "rules", str(test)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_flow_is_whole_and_speaks_the_protocol() -> None:
    nodes = json.loads((FOLDER / "node-red.json").read_text())
    by_id = {node["id"]: node for node in nodes}
    assert len(by_id) == len(nodes)
    stock = {"tab", "mqtt-broker", "inject", "function", "mqtt out", "mqtt in", "debug"}
    assert {node["type"] for node in nodes} == stock
    for node in nodes:
        assert {each for wires in node.get("wires", []) for each in wires} <= set(by_id)
        if node["type"].startswith("mqtt "):
            assert by_id[node["broker"]]["protocolVersion"] == "5"
    ask = by_id["ek-ask"]["func"]
    for needed in ("edgekit/v1/req/dev/", "edgekit/v1/res/", "responseTopic", "correlationData",
                   "messageExpiryInterval", "'ek-want': 'final'"):  # fmt: skip
        assert needed in ask
    assert by_id["ek-answers"]["topic"] == "edgekit/v1/res/node-red/#"
    for node in nodes:
        if node["type"] == "function":
            script = f"(function (msg, RED) {{{node['func']}}})"
            subprocess.run(
                [tools.find("node"), "--check", "-"], input=script, text=True, check=True
            )
