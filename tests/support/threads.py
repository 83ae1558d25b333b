"""Threads that start at one instant, each with a database connection of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

from django.db import connection, connections


def run_together(number, work, *, timeout=50):
    """Run `work(index)` in that many threads at once; return results, or errors."""
    barrier = threading.Barrier(number)

    def one(index):
        connection.ensure_connection()
        try:
            barrier.wait(timeout)
            return work(index)
        except Exception as error:  # noqa: BLE001 -- the test judges it
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(number) as pool:
        return [
            done.result(timeout) for done in [pool.submit(one, i) for i in range(number)]
        ]
