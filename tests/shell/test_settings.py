"""The environment is read once, and a bad value is named."""

import pytest

from finetune_operator.shell.settings import Settings


def test_defaults() -> None:
    settings = Settings.from_env({"HOSTNAME": "operator-0"})
    assert settings == Settings(
        namespace="finetune",
        watch_namespaces=(),
        service="finetune-operator",
        progress_url="https://finetune-operator.finetune.svc:10443",
        identity="operator-0",
    )
    assert settings.served_namespaces == ()


def test_the_operators_own_namespace_is_watched_too() -> None:
    """Its runtimes count, wherever jobs are served."""
    settings = Settings.from_env({"FINETUNE_NAMESPACE": "ops", "FINETUNE_WATCH_NAMESPACES": "a, b,ops,,"})
    assert settings.served_namespaces == ("a", "b", "ops")
    assert Settings.from_env({"FINETUNE_WATCH_NAMESPACES": "a"}).served_namespaces == ("a", "finetune")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINETUNE_METRICS_PORT", "many"),
        ("FINETUNE_HEALTH_PORT", "70000"),
        ("FINETUNE_PROGRESS_PORT", "-1"),
        ("LEADER_ELECTION", "perhaps"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: '{value}'"):
        Settings.from_env({name: value})
