"""What `up` keeps running may be unable to run: it is started again, ever more seldom."""

import os
import sys
import time

from autopilot_site.processes import Printer, Service, Supervisor


class TestCrashLoop:
    def test_is_slowed_down_each_time(self, capfd):
        reader, writer = os.pipe()
        service = Service(
            name="broken",
            command=[sys.executable, "-I", "-S", "-c", "raise SystemExit(3)"],
            environment=os.environ,
            is_ready=lambda _: False,
        )
        printer = Printer()
        supervisor = Supervisor([service], printer=printer, stop_descriptor=reader)

        began = time.monotonic()
        while time.monotonic() - began < 2.0:
            supervisor.step()
        supervisor.stop()
        printer.close()
        os.close(writer)
        os.close(reader)

        # After 0.1, 0.2, 0.4, 0.8 s, and so on up to ten seconds.
        assert 2 <= supervisor.processes[0].deaths <= 5
        assert "broken ended (exit code 3) and is started again" in capfd.readouterr().out
