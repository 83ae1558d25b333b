"""Kafka as a deployment has it: over TLS, with a user that has its rights and no more."""

import json
import os
import uuid
from datetime import UTC, datetime

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from django.core.management import CommandError, call_command

from autopilot_site.health.causes import Cause
from autopilot_site.verification import verify
from scheduling.adapters import broker_probe
from scheduling.adapters.clock import database_now
from scheduling.models import ScheduledTransition
from scheduling.topics import ALL_TOPICS, COMMAND, COMMAND_RESULT
from tests.faults.conftest import Cluster, Topic, check_fired_rightly, wait_completed
from tests.support.certificates import Authority
from tests.support.consumer import (
    ConsumerProcess,
    Sender,
    Watcher,
    inbox_rows,
    wait_until,
)
from tests.support.servers import KafkaNode

pytestmark = [pytest.mark.processes, pytest.mark.broker, pytest.mark.timeout(120)]
USER, PASSWORD, WRONG_PASSWORD = "autopilot", "hush-0f-the-node", "hush-0f-nobody"
GROUP = "autopilot-group"


@pytest.fixture(scope="module")
def authority():
    """Return who has given the node its certificate."""
    return Authority()


@pytest.fixture(scope="module")
def node(authority, tmp_path_factory):
    """Return a Kafka node with our topics and one user."""
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS is not set")
    directory = tmp_path_factory.mktemp("secured")
    certificate = directory / "node.pem"
    certificate.write_bytes(b"".join(authority.issue()))
    node = KafkaNode(
        directory / "kafka",
        [f"{topic}:1" for topic in ALL_TOPICS],
        certificate=certificate,
        user=f"{USER}:{PASSWORD}",
    )
    _give_rights(node)
    yield node
    node.kill()


def _give_rights(node):
    """Give the user what the deployment page names, and nothing else."""
    rights = [
        (ResourceType.TOPIC, topic, operation)
        for topic in ALL_TOPICS
        for operation in (AclOperation.DESCRIBE, AclOperation.READ, AclOperation.WRITE)
    ]
    rights.append((ResourceType.GROUP, GROUP, AclOperation.READ))
    rights.append((ResourceType.BROKER, "kafka-cluster", AclOperation.IDEMPOTENT_WRITE))
    bindings = [
        AclBinding(
            *(resource, name, ResourcePatternType.LITERAL),
            *(f"User:{USER}", "*", operation, AclPermissionType.ALLOW),
        )
        for resource, name, operation in rights
    ]
    client = AdminClient({"bootstrap.servers": node.address})
    for future in client.create_acls(bindings).values():
        future.result(20)


@pytest.fixture
def kafka(node, settings):
    """Let the test itself come by the open listener."""
    settings.KAFKA_CLIENT = settings.KAFKA_CLIENT | {"bootstrap.servers": node.address}
    return node.address


@pytest.fixture
def variables(node, authority, tmp_path):
    """Return the environment of a deployment on that node."""
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(authority.pem)
    return {
        "KAFKA_BOOTSTRAP_SERVERS": node.secured_address,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CA_LOCATION": str(trusted),
        "KAFKA_CONSUMER_GROUP": GROUP,
    }


@pytest.fixture
def start(process_environment, tmp_path):
    """Return a starter of a cluster and a consumer; what still runs at the end is ended."""
    started = []

    def begin(variables):
        environment = process_environment | variables
        consumer = ConsumerProcess(environment, tmp_path / "consumer.log")
        started.append(consumer.kill)
        cluster = Cluster(environment, tmp_path / "cluster.log")
        started.append(cluster.end)
        return cluster, consumer

    yield begin
    for end in started:
        end()


def _command(correlation_id):
    """Return a command that has an answer and changes nothing."""
    return json.dumps(
        {
            "topic": COMMAND,
            "originator": "tests",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "mimeType": "application/json",
            "payload": {
                "command": "list_scheduled_transitions",
                "operator": "admin",
                "projectId": 1,
                "correlationId": correlation_id,
            },
        }
    ).encode()


def _client_of(variables, settings):
    """Return what the settings make of those variables for librdkafka."""
    names = {
        "KAFKA_BOOTSTRAP_SERVERS": "bootstrap.servers",
        "KAFKA_SECURITY_PROTOCOL": "security.protocol",
        "KAFKA_SASL_MECHANISM": "sasl.mechanism",
        "KAFKA_SASL_USERNAME": "sasl.username",
        "KAFKA_SASL_PASSWORD": "sasl.password",
        "KAFKA_SSL_CA_LOCATION": "ssl.ca.location",
    }
    return settings.KAFKA_CLIENT | {ours: variables[name] for name, ours in names.items()}


class TestKafkaOverTls:
    def test_serves_clusters_and_consumers_with_no_more_than_their_rights(
        self, start, variables, plant, kafka, settings, transactional_db
    ):
        topic, answers = Topic(kafka), Watcher([COMMAND_RESULT])
        cluster, consumer = start(variables)

        jobs = plant(2, starts_in=1)
        # The node keeps what the tests before this one sent, and nobody could read.
        asked = str(uuid.uuid4())
        place = Sender().send(COMMAND, _command(asked))
        wait_completed(jobs, seconds=20)
        # As after the death of whoever published it: the topic is searched first.
        jobs += (left := plant(1, starts_in=1))
        ScheduledTransition.objects.filter(job_id__in=left).update(
            unproven_since=datetime.now(UTC)
        )

        wait_completed(left, seconds=20)
        check_fired_rightly(jobs, topic)
        settings.KAFKA_CLIENT = _client_of(variables, settings)
        report = verify(now=database_now(), with_topic=True)
        assert not [one.unchecked for one in report.invariants.values() if one.unchecked]
        wait_until(lambda: inbox_rows({place}), what="the command's row")
        (answer,) = answers.wait_for(
            lambda one: one.payload["correlationId"] == asked, what="the answer"
        )
        assert answer.payload["success"] is True
        answers.close()
        assert (cluster.stop(), consumer.stop()) == (0, 0)
        assert PASSWORD not in cluster.log.read_text() + consumer.log

    @pytest.mark.parametrize("cause", [Cause.REFUSED_USER, Cause.UNTRUSTED])
    def test_lets_nothing_through_where_it_is_refused_and_says_why(
        self, cause, start, variables, plant, kafka, settings, tmp_path, monkeypatch, capsys
    ):
        foreign = tmp_path / "foreign.pem"
        foreign.write_bytes(Authority().pem)
        change, said = {
            Cause.REFUSED_USER: (
                {"KAFKA_SASL_PASSWORD": WRONG_PASSWORD},
                "authentication failed",
            ),
            Cause.UNTRUSTED: (
                {"KAFKA_SSL_CA_LOCATION": str(foreign)},
                "certificate verify failed",
            ),
        }[cause]
        topic = Topic(kafka)
        jobs = plant(3, starts_in=1)
        place = Sender().send(COMMAND, _command(str(uuid.uuid4())))
        cluster, consumer = start(variables | change)

        wait_until(
            lambda: said in cluster.log.read_text().lower(), what="the cluster's word"
        )
        wait_until(lambda: said in consumer.log.lower(), what="the consumer's word")

        settings.KAFKA_CLIENT = _client_of(variables | change, settings)
        monkeypatch.setattr(broker_probe, "_probes", {})
        call_command("health")
        with pytest.raises(CommandError):
            call_command("doctor")
        told = capsys.readouterr().out
        assert f"no broker answers ({cause})" in told
        # What it holds it gives back, and no attempt is used up.
        assert (cluster.stop(), consumer.stop()) == (0, 0)
        assert topic.records() == []
        assert inbox_rows({place}) == {}
        rows = ScheduledTransition.objects.filter(job_id__in=jobs)
        assert set(rows.values_list("status", "attempts")) == {("scheduled", 0)}
        everything = cluster.log.read_text() + consumer.log + told
        assert PASSWORD not in everything
        assert WRONG_PASSWORD not in everything
