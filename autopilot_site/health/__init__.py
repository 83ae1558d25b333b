"""Is all well, and if not, why not (contract, section 7)?

`facts` asks the database, the brokers and this host; `judgement` says what it means;
`views` and `manage.py health` tell it. The admin's home page calls `read_health` too.
"""

from autopilot_site.health.judgement import Check, CheckStatus, Health, HealthStatus
from autopilot_site.health.reading import read_health

__all__ = ["Check", "CheckStatus", "Health", "HealthStatus", "read_health"]
