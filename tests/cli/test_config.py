"""The configuration: every mistake is told with its place and remedy before anything is touched (P18)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli import main
from bridge.config import load, parse, parse_duration, parse_rate
from bridge.detect.scan import DeleteLimit
from bridge.errors import ConfigurationError
from bridge.model import Collection

SECRET = "canary-secret-7f3a"
GOOD = f"""
[kafka]
bootstrap_servers = ["localhost:9092"]
[bridge]
name = "bridge"
shards = 16
[[sources]]
id = "acme"
provider = "dintero"
account = "T12345678"
client_id = "client"
client_secret = "{SECRET}"
poll_interval = {{ customers = "250ms", tags = "1m" }}
request_budget = "300/m"
"""


def problem(text: str) -> str:
    """The message for this text; it never shows the secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "bridge.toml", Path("."))
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_good_file_with_its_units() -> None:
    config = parse(GOOD, "bridge.toml", Path("."))
    source = config.sources[0]
    assert source.poll_interval_s(Collection.CUSTOMERS) == 0.25
    assert source.poll_interval_s(Collection.TAGS) == 60
    assert source.request_budget == 5.0
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("shards = 16", "shrads = 16", 'bridge.shrads: unknown key; did you mean "shards"?'),
        ("[bridge]", "[brigde]", 'brigde: unknown key; did you mean "bridge"?'),
        ("request_budget", "request_bugdet", 'sources[1].request_bugdet: unknown key; did you mean "request_budget"?'),
        ("bootstrap_servers", "bootstrap_server", "kafka.bootstrap_servers: missing; add it"),
        ("T12345678", "T1234567", "sources[1]: account: must be P or T and 8 digits"),
        ("T12345678", "T1234567\u0665", "sources[1]: account: must be P or T and 8 digits"),
        ('"acme"', '"Acme/1"', "sources[1]: id 'Acme/1' does not match"),
        ('"dintero"', '"rebily"', "sources[1].provider"),
        ("shards = 16", "shards = 0", "bridge.shards: Input should be greater than or equal to 1"),
        ('"300/m"', '"fast"', "sources[1].request_budget: a rate is a number above 0 with a unit"),
        ('"1m"', '"1 minute"', "a duration is a number with a unit"),
        (f'"{SECRET}"', '{ env = "NO_SUCH_VARIABLE" }', "sources[1].client_secret comes from the environment variable"),
        (f'"{SECRET}"', '{ file = "no-such-file" }', "which cannot be read (No such file or directory)"),
        (f'"{SECRET}"', '""', "sources[1].client_secret: "),
        ('name = "bridge"', 'name = "a/b"', "bridge.name: "),
        ("[kafka]", "[kafka", "bridge.toml: not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in problem(GOOD.replace(old, new))


REBILLY = f"""
[kafka]
bootstrap_servers = ["localhost:9092"]
[[sources]]
id = "billing"
provider = "rebilly"
account = "org_1"
api_key = "{SECRET}"
collections = ["customers", "tags", "memberships"]
request_budget = "2/s"
"""


def test_a_source_of_the_other_provider_has_a_key_instead_of_a_login() -> None:
    config = parse(REBILLY, "bridge.toml", Path("."))
    settings = config.sources[0].rebilly()
    assert (settings.account, settings.request_rate, settings.base_url) == ("org_1", 2.0, "https://api.rebilly.com")
    assert settings.collections == {Collection.CUSTOMERS, Collection.TAGS, Collection.MEMBERSHIPS}
    assert [secret.get_secret_value() for secret in config.sources[0].secrets] == [SECRET]
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (f'api_key = "{SECRET}"', "", "sources[1]: api_key: missing; add it"),
        (f'"{SECRET}"', f'"{SECRET} x"', "sources[1]: api_key: must be printable ASCII without spaces"),
        ('"org_1"', '"a/b"', "sources[1]: account: must be an organization's id"),
        ("request_budget", 'client_id = "x"\nrequest_budget', "client_id: rebilly has no such key; remove it"),
        ("request_budget", 'owner = "x"\nrequest_budget', "owner: rebilly has no such key; remove it"),
        ('"memberships"]', '"users"]', "sources[1]: collections: has no users that could be read"),
        ('"tags", ', "", "memberships need tags as well"),
        ('"rebilly"', '"dintero"', "sources[1]: client_id: missing; add it; client_secret: missing; add it"),
    ],
)
def test_a_mistake_in_a_source_of_the_other_provider_is_named(old: str, new: str, expected: str) -> None:
    assert old in REBILLY
    assert expected in problem(REBILLY.replace(old, new))


def test_a_key_of_the_other_provider_is_no_key_of_this_one() -> None:
    assert "sources[1]: api_key: dintero has no such key; remove it" in problem(GOOD + f'api_key = "{SECRET}"\n')
    assert "sources[1]: client_secret: missing; add it" in problem(GOOD.replace(f'client_secret = "{SECRET}"', ""))


def test_users_of_an_account_and_of_another_owner() -> None:
    source = parse(GOOD + 'collections = ["customers", "users"]\nowner = "P123"\n', "bridge.toml", Path(".")).sources[0]
    settings = source.dintero()
    assert settings.collections == {Collection.CUSTOMERS, Collection.USERS}
    assert (settings.account, settings.owner) == ("T12345678", "P123")
    assert "sources[1]: owner: must be P or T and 3 or 8 digits" in problem(GOOD + 'owner = "P1234"\n')


def test_a_partner_is_an_account_for_its_users_alone() -> None:
    partner = GOOD.replace("T12345678", "P123")
    config = parse(partner + 'collections = ["users"]\n', "bridge.toml", Path("."))
    assert config.sources[0].dintero().account == "P123"
    for collections in ("", 'collections = ["customers"]\n', 'collections = ["users", "tags"]\n'):
        assert 'sources[1]: account: is a partner, of which only users can be read: set collections = ["users"]' in (
            problem(partner + collections)
        )
    assert "sources[1]: account: must be P or T and 8 digits" in problem(
        GOOD.replace("T12345678", "P12") + 'collections = ["users"]\n'
    )


def test_how_many_pages_are_asked_side_by_side_is_for_the_file_to_say() -> None:
    def lanes(line: str) -> int:
        config = parse(GOOD.replace('request_budget = "300/m"', line), "bridge.toml", Path("."))
        return config.sources[0].dintero().snapshot_parallelism

    assert lanes("") == 4
    assert lanes("snapshot_parallelism = 1") == 1
    assert "snapshot_parallelism" in problem(GOOD + "snapshot_parallelism = 33")


def test_two_sources_may_not_share_an_id() -> None:
    block = GOOD[GOOD.index("[[sources]]") :]
    assert "two of them have the id 'acme'" in problem(GOOD + block)


def test_a_secret_file_ends_with_a_newline_that_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    text = GOOD.replace(f'"{SECRET}"', '{ file = "secret" }')
    config = parse(text, "bridge.toml", tmp_path)
    assert [secret.get_secret_value() for secret in config.sources[0].secrets] == [SECRET]
    (tmp_path / "secret").write_text(f"{SECRET}\n{SECRET}\n")
    with pytest.raises(ConfigurationError, match="exactly one line"):
        parse(text, "bridge.toml", tmp_path)


def test_a_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_SECRET", SECRET)
    config = parse(GOOD.replace(f'"{SECRET}"', '{ env = "ACME_SECRET" }'), "bridge.toml", Path("."))
    assert [secret.get_secret_value() for secret in config.sources[0].secrets] == [SECRET]


def test_a_token_for_commands_is_of_all_sources_or_of_one_and_never_shown() -> None:
    token, own = "canary-token-of-everybody", "canary-token-of-acme-alone"
    second = GOOD[GOOD.index("[[sources]]") :].replace('"acme"', '"globex"')
    one = GOOD.replace('client_id = "client"', f'client_id = "client"\ncommand_token = "{own}"')
    assert parse(GOOD, "bridge.toml", Path(".")).command_tokens == {}
    config = parse(f'{one}{second}[http]\ncommand_token = "{token}"', "bridge.toml", Path("."))
    assert {source: secret.get_secret_value() for source, secret in config.command_tokens.items()} == {
        "acme": own,
        "globex": token,
    }
    assert {token, own, SECRET} <= set(config.secrets)
    assert token not in repr(config)
    assert own not in repr(config)
    said = problem(f'{GOOD}[http]\ncommand_token = "short-canary"')
    assert "http.command_token: " in said
    assert "short-canary" not in said


def test_the_command_exits_with_2_and_one_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(GOOD.replace("shards = 16", "shrads = 16"))
    result = CliRunner().invoke(main, ["check", "-c", str(path)])
    assert result.exit_code == 2
    assert "did you mean" in result.stderr
    assert "Traceback" not in result.output
    missing = CliRunner().invoke(main, ["run", "-c", str(tmp_path / "none.toml")])
    assert missing.exit_code == 2
    assert "cannot be read" in missing.stderr


def test_a_good_file_passes_the_check_and_the_nearest_command_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(GOOD)
    assert CliRunner().invoke(main, ["check", "-c", str(path)]).exit_code == 0
    result = CliRunner().invoke(main, ["chekc"])
    assert result.exit_code == 2
    assert "Did you mean 'check'?" in result.stderr
    for name, command in main.commands.items():
        shown = CliRunner().invoke(main, [name, "--help"])
        assert shown.exit_code == 0
        assert "Example:" in shown.stdout, name
        assert command.help


TOML_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(st.characters(codec="ascii", exclude_characters='"\\\x7f', min_codepoint=32)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@given(
    st.sampled_from(["id", "account", "client_id", "client_secret", "poll_interval", "collections", "base_url"]),
    TOML_VALUES,
)
def test_whatever_stands_there_is_taken_or_refused_with_a_place(key: str, value: Any) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key} ")]
    text = "\n".join([*lines, f"{key} = {toml(value)}"])
    said = ""
    try:
        parse(text, "bridge.toml", Path("."))
    except ConfigurationError as error:
        said = str(error)
    assert not said or said.startswith("bridge.toml: ")
    assert SECRET not in said


@given(st.text(max_size=20))
def test_durations_and_rates_are_exact_or_refused(text: str) -> None:
    for read in (parse_duration, parse_rate):
        said = ""
        try:
            assert read(text) >= 0
        except ValueError as error:
            said = str(error)
        assert not said or "such as" in said


def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("poll_interval", "nan"),
        ("poll_interval", "inf"),
        ("poll_interval", "-1.0"),
        ("poll_interval", '"0s"'),
        ("poll_overlap", "-1.0"),
        ("poll_interval", '{ pets = "1s" }'),
    ],
)
def test_no_duration_is_negative_or_endless(key: str, value: str) -> None:
    lines = ["[kafka]", 'bootstrap_servers = ["k:9092"]', "[[sources]]", 'id = "a"', 'provider = "dintero"']
    lines += ['account = "T12345678"', 'client_id = "c"', 'client_secret = "s"', f"{key} = {value}"]
    with pytest.raises(ConfigurationError) as caught:
        parse("\n".join(lines), "x.toml", Path())
    assert str(caught.value).startswith(f"x.toml: sources[1].{key}: ")
    assert "function" not in str(caught.value)


def source_with(line: str) -> str:
    lines = ["[kafka]", 'bootstrap_servers = ["k:9092"]', "[[sources]]", 'id = "a"', 'provider = "dintero"']
    return "\n".join([*lines, 'account = "T12345678"', 'client_id = "c"', 'client_secret = "s"', line])


def test_a_delete_limit_is_a_share_and_a_number() -> None:
    config = parse(source_with('delete_limit = { share = "0.5%", documents = 10 }'), "x.toml", Path())
    limit = config.sources[0].delete_limit.limit()
    assert limit == DeleteLimit(0.005, 10)
    assert parse(source_with(""), "x.toml", Path()).sources[0].delete_limit.limit() == DeleteLimit(0.05, 50)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{ share = "500%" }', r"sources\[1\]\.delete_limit\.share: a share is a percentage, such as"),
        ("{ documents = -1 }", r"sources\[1\]\.delete_limit\.documents: "),
        ("{ docments = 1 }", r'sources\[1\]\.delete_limit\.docments: unknown key; did you mean "documents"'),
    ],
)
def test_a_wrong_delete_limit_is_named_with_its_place(value: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse(source_with(f"delete_limit = {value}"), "x.toml", Path())


@pytest.mark.parametrize(
    ("collections", "missing"), [('"memberships"', "customers and tags"), ('"customers", "memberships"', "need tags")]
)
def test_memberships_need_both_of_their_ends(collections: str, missing: str) -> None:
    lines = [*GOOD.splitlines(), f"collections = [{collections}]"]
    with pytest.raises(ConfigurationError, match=missing):
        parse("\n".join(lines), "x.toml", Path())
    lines[-1] = 'collections = ["memberships", "customers", "tags"]'
    (source,) = parse("\n".join(lines), "x.toml", Path()).sources
    assert source.poll_interval_s(Collection.MEMBERSHIPS) > 0


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "127.0.0.1", ":80"])
def test_an_address_that_cannot_be_is_found_before_anything_is_touched(listen: str) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.toml: http\.listen: "):
        parse(f'kafka.bootstrap_servers = ["k:9092"]\nhttp.listen = "{listen}"', "x.toml", Path())


def test_a_poll_interval_may_be_a_range() -> None:
    text = GOOD.replace('customers = "250ms"', 'customers = "1s..0.5m"')
    source = parse(text, "bridge.toml", Path(".")).sources[0]
    assert (source.poll_interval_s(Collection.CUSTOMERS), source.poll_interval_s_max(Collection.CUSTOMERS)) == (1, 30)
    assert (source.poll_interval_s(Collection.TAGS), source.poll_interval_s_max(Collection.TAGS)) == (60, 60)
    assert source.poll_interval_s_max(Collection.USERS) == 5


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("30s..1s", "a range begins with the shorter interval"),
        ("0s..30s", "an interval is longer than 0s"),
        ("1s..", "a duration is a number with a unit"),
        ("..30s", "a duration is a number with a unit"),
        ("1s..2s..3s", "a duration is a number with a unit"),
        ("1..30s", "a duration is a number with a unit"),
        ("1s..999d", "a duration lies between"),
    ],
)
def test_a_range_that_is_none_says_why(value: str, said: str) -> None:
    text = GOOD.replace('customers = "250ms"', f'customers = "{value}"')
    assert problem(text).startswith(f"bridge.toml: sources[1].poll_interval: {said}")


MIRROR = f"""{GOOD}
collections = ["customers", "tags", "memberships"]
{REBILLY.partition("[[sources]]")[1]}{REBILLY.partition("[[sources]]")[2]}
[[mirrors]]
name = "vip"
from = "acme:VIP"
to = "billing:vip"
join = {{ from = "customer_id", to = "attributes.loyalty_id" }}
"""


def test_a_mirror_joins_two_fields_or_one() -> None:
    (mirror,) = parse(MIRROR, "bridge.toml", Path(".")).mirrors
    assert mirror.rule() == ("vip", "acme", "VIP", "billing", "vip", "customer_id", "attributes.loyalty_id", False)
    same = MIRROR.replace('{ from = "customer_id", to = "attributes.loyalty_id" }', '"email"')
    assert parse(same, "bridge.toml", Path(".")).mirrors[0].rule()[5:7] == ("email", "email")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"acme:VIP"', '"acme"', 'mirrors[1].from: name a source and a tag of it, such as "acme:VIP"'),
        ('"acme:VIP"', '"acne:VIP"', "mirrors[1].from: no source has the id 'acne'"),
        ('"billing:vip"', '"acme:VIP"', "mirrors[1]: from and to are the same tag"),
        ('from = "acme:VIP"', 'form = "acme:VIP"', 'mirrors[1].form: unknown key; did you mean "from"?'),
        ('"attributes.loyalty_id"', '"attributes..x"', "mirrors[1].join.to: String should match pattern"),
        ('collections = ["customers", "tags", "memberships"]\n', "", "mirrors[1].from: acme has to read memberships"),
        ('name = "vip"', 'name = "VIP"', "mirrors[1].name: String should match pattern"),
        ("[[mirrors]]", MIRROR[MIRROR.index("[[mirrors]]") :] + "[[mirrors]]", "two of them have the name 'vip'"),
    ],
)
def test_a_mistake_in_a_mirror_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in MIRROR
    assert expected in problem(MIRROR.replace(old, new, 1))
