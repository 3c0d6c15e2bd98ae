"""What looks like a secret is refused in a recipe and in the addresses of servers; the message never repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.failures import BadInput
from components.recipe.load import read_recipe
from components.recipe.secrets import ADDRESSES, refuse_in_addresses
from flows.forms import RECIPES
from flows.standard_request import _at
from infra.stack.profile import ENDPOINTS, environment

JUDGE = "sk-proj-Ab12Cd34Ef56Gh78Ij90"
PLAIN = "a plain sentence as a key"
S3 = "wJalrXUtnFEMI7K7MDENG"


@pytest.mark.parametrize(
    ("override", "secret", "named"),
    [
        ('execution.judges=[{model: m, base_url: "http://ann:pa55word@h/v1"}]', "pa55word", "judges.0.base_url"),
        (f"execution.judges=[{{model: m, api_key: {JUDGE}}}]", JUDGE, "execution.judges.0.api_key"),
        (f"execution.judges=[{{model: m, api_key_env: {JUDGE}}}]", JUDGE, "execution.judges.0.api_key_env"),
        (f"execution.judges=[{{model: m, api_key_env: {PLAIN}}}]", PLAIN, "no name of an environment variable"),
        (f"execution.judges=[{{model: m, password: {PLAIN}}}]", PLAIN, "execution.judges.0.password"),
        (f"description={JUDGE}", JUDGE, "description"),
        (f"description=with {S3} inside", S3, "description"),
        ("description=https://b.s3/x?X-Amz-Signature=0a1b2c3d4e", "0a1b2c3d4e", "description"),
    ],
)
@pytest.mark.parametrize("written", ["override", "file"])
def test_a_recipe_with_a_secret_is_refused(
    override: str, secret: str, named: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3)
    path, overrides = "nano", [override]
    if written == "file":
        key, _, value = override.partition("=")
        text = (RECIPES / "nano.yaml").read_text().splitlines()
        top, _, inner = key.partition(".")
        text = [line for line in text if not line.startswith(f"{top}:")]
        text += [f"{top}: {{{inner}: {value}}}" if inner else f'{top}: "{value}"']
        path, overrides = str(tmp_path / "own.yaml"), []
        Path(path).write_text("\n".join(text))
    with pytest.raises(BadInput) as refused:
        read_recipe(path, overrides, RECIPES)
    assert secret not in str(refused.value)
    assert named in str(refused.value)
    assert "environment variable" in str(refused.value)
    assert ("--set" if written == "override" else "own.yaml:") in str(refused.value)


def test_every_recipe_of_the_project_passes_and_a_variable_may_be_named() -> None:
    for path in sorted(RECIPES.glob("*.yaml")):
        read_recipe(path.stem, (), RECIPES)
    judge = "[{model: m, base_url: http://127.0.0.1:1/v1, api_key_env: JUDGE_KEY}]"
    assert read_recipe("nano", [f"execution.judges={judge}"], RECIPES).recipe.execution.judges[0].api_key_env


def test_a_secret_in_a_comment_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"# key of the judge: {JUDGE}\n" + (RECIPES / "nano.yaml").read_text())
    loaded = read_recipe(path)
    assert JUDGE not in loaded.text
    assert loaded.text.startswith("# key of the judge: ***\n")


@pytest.mark.parametrize("variable", ADDRESSES)
def test_an_address_with_a_password_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.setenv(name, f"http://{name.lower().replace('_', '-')}.example.org")
    monkeypatch.setenv("RINGFLOW_PROFILE", "cluster")
    environment()
    monkeypatch.setenv(variable, "http://ann:pa55word@example.org")
    for call in (refuse_in_addresses, environment):
        with pytest.raises(BadInput) as refused:
            call()
        assert "pa55word" not in str(refused.value)
        assert variable in str(refused.value)


def test_an_endpoint_on_the_command_line_too() -> None:
    assert _at("m@http://127.0.0.1:1/v1", "--judge") == ("m", "http://127.0.0.1:1/v1")
    with pytest.raises(BadInput, match="--judge") as refused:
        _at("m@http://ann:pa55word@example.org/v1", "--judge")
    assert "pa55word" not in str(refused.value)
