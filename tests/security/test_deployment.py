"""What the deployment's files leave to a process that somebody has taken over."""

import configparser
import re
from pathlib import Path

import autopilot_site

DEPLOYMENT = Path(autopilot_site.__file__).parent / "deployment"


class TestUnit:
    def test_leaves_the_process_little(self):
        unit = configparser.RawConfigParser(strict=False)
        unit.optionxform = str
        unit.read(DEPLOYMENT / "autopilot@.service", encoding="utf-8")
        service = unit["Service"]

        assert service["User"] == "autopilot"
        assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ""
        for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome"):
            assert service[name] == "yes"
        assert service["ProtectSystem"] == "strict"
        assert service["SystemCallFilter"] == "@system-service"
        assert {"MemoryMax", "TasksMax"} <= set(service)

    def test_has_no_secret_in_its_environment(self):
        text = (DEPLOYMENT / "autopilot@.service").read_text(encoding="utf-8")
        names = re.findall(r"^Environment=(\w+)=", text, re.MULTILINE)

        assert names
        assert [name for name in names if not name.endswith("_FILE")] == []


class TestContainer:
    def test_is_no_root(self):
        text = (DEPLOYMENT / "Containerfile").read_text(encoding="utf-8")

        (user,) = re.findall(r"^USER (\S+)$", text.rpartition("\nFROM ")[2], re.MULTILINE)
        assert int(user) > 0
