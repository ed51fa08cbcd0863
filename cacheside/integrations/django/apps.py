"""The app: Django calls `ready` once it has its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.conf import settings
from django.core.signals import setting_changed

from . import configuration, ties

if TYPE_CHECKING:
    _Base = object  # Django has no types
else:
    _Base = AppConfig


class CachesideConfig(_Base):
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
