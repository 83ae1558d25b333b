#!/usr/bin/env python
"""Run Django's command line for Autopilot."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured

from autopilot_site.env import prepare_first_start


def main() -> None:
    """Run the command named on the command line; a bad environment ends with 1."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "autopilot_site.settings")
    prepare_first_start(sys.argv, os.environ)
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"autopilot: the environment can't be used\n{error}")


if __name__ == "__main__":
    main()
