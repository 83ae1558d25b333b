"""The dashboard and the alert rules name metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import autopilot_site.metrics
from autopilot_site.metrics.views import read_metrics
from recovery.results import RunStatus
from scheduling.adapters.clock import database_now
from scheduling.models import DeadLetter, ProcessState, VerificationResult

FOLDER = Path(autopilot_site.metrics.__file__).parent
RULES, DASHBOARD = FOLDER / "alerts.yml", FOLDER / "dashboard.json"


def rules():
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def expressions():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    return shown + [rule["expr"] for rule in rules()]


@pytest.fixture
def samples(transactional_db, settings):
    """Return the name of each sample that a scrape tells, with its labels."""
    settings.KAFKA_CLIENT = {**settings.KAFKA_CLIENT, "bootstrap.servers": "127.0.0.1:9"}
    now = database_now()
    ProcessState.objects.create(
        kind="consumer",
        host="here",
        pid=7,
        started_at=now,
        seen_at=now,
        figures={"lag": {"autopilot.command[2]": 5}},
    )
    VerificationResult.objects.create(
        name="scheduled", started_at=now, finished_at=now, is_ok=True
    )
    DeadLetter.objects.create(
        cluster_id="c",
        topic="autopilot.command",
        partition=0,
        offset=1,
        code="invalid_request",
        category="validation",
        message="is no JSON",
        set_aside_at=now,
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(read_metrics(now=now))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


class TestExpressions:
    def test_name_only_what_there_is(self, samples):
        named = {
            name
            for expression in expressions()
            for name in re.findall(r"autopilot_[a-z_]+", expression)
        }

        assert named <= set(samples)
        assert len(named) > 10

    def test_group_only_by_labels_that_there_are(self, samples):
        for expression in expressions():
            labels = set().union(
                *(samples[n] for n in re.findall(r"autopilot_[a-z_]+", expression)), set()
            )
            for group in re.findall(r"by \(([^)]*)\)", expression):
                assert {label.strip() for label in group.split(",")} <= labels, expression

    def test_name_statuses_that_there_are(self):
        (rule,) = [one for one in rules() if one["alert"] == "AutopilotRecoveryFailed"]

        (statuses,) = re.findall(r'status=~"([A-Z_|]+)"', rule["expr"])

        assert set(statuses.split("|")) <= set(RunStatus)


class TestRules:
    def test_say_how_bad_it_is_and_what_it_means(self):
        for rule in rules():
            assert rule["labels"]["severity"] in {"critical", "warning"}, rule
            assert rule["annotations"]["summary"], rule

    @pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
    def test_are_accepted_by_prometheus(self):
        subprocess.run(["promtool", "check", "rules", str(RULES)], check=True, timeout=30)
