"""The app: Django calls `ready` once it has its settings."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.signals import setting_changed

from . import configuration, ties


class CachesideConfig(AppConfig):  # type: ignore[misc]  # Django has no types: to mypy its classes are Any
    """Configures the default cache, and ties invalidations to transactions."""

    name = "cacheside.integrations.django"
    label = "cacheside"
    verbose_name = "Cacheside"

    def ready(self) -> None:
        """See `AppConfig.ready`.

        Raises:
            ImproperlyConfigured: `settings.CACHESIDE` cannot work.
        """
        configuration.apply(getattr(settings, "CACHESIDE", None))
        setting_changed.connect(_changed, dispatch_uid="cacheside")  # `override_settings` of tests
        ties.install()


def _changed(*, setting: str, value: object, **_: Any) -> None:
    if setting == "CACHESIDE":
        configuration.apply(value)
