"""What all unit tests share: on a machine that is busy with something else, slow is no fault."""

from hypothesis import HealthCheck, settings

settings.register_profile("katacsi", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("katacsi")
