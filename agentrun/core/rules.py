"""The shapes of well-known credentials, as data: how each begins, and what follows.

A rule is tried only on texts that contain its hint in lower case. So ordinary text costs only
a search for literals, and a pattern is compiled when its hint first occurs. Ids that only look
random (``call_…``, digests, UUIDs, base64) match no rule.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

from agentrun.core.naming import HINTS as NAMES
from agentrun.core.naming import is_blank, is_random

__all__ = ["HINTS", "RULES", "CredentialRule"]

Test = Callable[[re.Match[str]], bool]
_LONGEST = 400  # characters of a token; a longer run of such characters is encoded data
_NEAREST = 24  # characters that may precede a token directly; after more, it is encoded data


@dataclass(frozen=True)
class CredentialRule:
    """One shape. Any text that ``regex`` matches contains ``hint`` in lower case."""

    kind: str
    hint: str
    regex: str
    flags: int = re.ASCII
    test: Test | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.regex, self.flags)

    @cached_property
    def group(self) -> str | int:
        """The part of a match that is masked: the group ``secret``, or else the whole match."""
        return "secret" if "secret" in self.pattern.groupindex else 0


_RUN = re.compile(r"[\w+/-]*\Z", re.ASCII)


def _stands_alone(found: re.Match[str]) -> bool:
    """Whether a token is not part of a longer run, such as base64. A word may precede it."""
    start = found.start()
    before = _RUN.search(found.string[max(0, start - _NEAREST - 1) : start])
    return len(before[0] if before else "") <= _NEAREST and len(found[0]) <= _LONGEST


def _has_random_lines(found: re.Match[str]) -> bool:
    return is_random(re.sub(r"\s|\\[nr]", "", found["secret"])[:200])


def _has_random_ends(found: re.Match[str]) -> bool:
    return is_random(found["tail"]) and is_random(found[0][:20])


def _stands_random(found: re.Match[str]) -> bool:
    return _stands_alone(found) and is_random(found["tail"])


def _is_pair(found: re.Match[str]) -> bool:
    """Whether the text is base64 of ``user:password``. "basic understanding" is English."""
    try:
        pair = b64decode(found["secret"], validate=True).decode()
    except ValueError:
        return False
    _, colon, password = pair.partition(":")
    return bool(colon) and pair.isprintable() and not is_blank(password)


def _is_real_password(found: re.Match[str]) -> bool:
    """Whether a password is a real one, and not a placeholder of documentation or a plain word."""
    secret = unquote(found["secret"])
    if is_blank(secret) or re.match(r"\d{2,5},|[{$<%]", secret):  # a port, or a placeholder
        return False
    return any(map(str.isdigit, secret)) or len(secret) >= 12 or not secret.isascii()


def _has_session_id(found: re.Match[str]) -> bool:
    """Whether one of the values of a cookie is long and random."""
    values = (pair.partition("=")[2] for pair in found["secret"].split(";"))
    return any(len(value) >= 16 and is_random(value) for value in values)


def _is_opaque(found: re.Match[str]) -> bool:
    """Whether the text after an authorization scheme is neither prose nor a name in code."""
    secret = found["secret"]
    one_case = secret.isalpha() and (secret.islower() or secret.isupper())
    return is_random(secret) or (one_case and len(secret) >= 20)


def _token(kind: str, head: str, tail: str, end: str = r"(?![\w-])") -> CredentialRule:
    """A rule for a credential that its first characters identify. They are the hint."""
    return CredentialRule(kind, head.lower(), f"{re.escape(head)}{tail}{end}", test=_stands_alone)


def _loose(kind: str, head: str, tail: str) -> CredentialRule:
    """Like `_token`, for first characters that words also begin with: the rest must be random."""
    return CredentialRule(
        kind, head.lower(), f"{re.escape(head)}(?P<tail>{tail})", test=_stands_random
    )


_AN, _HEX, _W = "[A-Za-z0-9]", "[0-9a-f]", "[A-Za-z0-9_-]"
_UUID = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"

# Kind, head and tail, from the documentation of the services, and from gitleaks and detect-secrets.
_TOKENS = [
    ("anthropic key", "sk-ant-", f"{_W}{{16,}}"),
    ("openrouter key", "sk-or-v1-", f"{_HEX}{{64}}"),
    ("langfuse key", "sk-lf-", _UUID),
    ("groq key", "gsk_", f"{_AN}{{40,60}}"),
    ("xai key", "xai-", f"{_AN}{{40,100}}"),
    ("replicate token", "r8_", f"{_AN}{{30,40}}"),
    ("perplexity key", "pplx-", f"{_AN}{{32,60}}"),
    ("nvidia key", "nvapi-", f"{_W}{{40,80}}"),
    ("pinecone key", "pcsk_", f"{_W}{{30,90}}"),
    ("langsmith key", "lsv2_", r"(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}"),
    ("tavily key", "tvly-", f"{_W}{{20,50}}"),
    ("hugging face token", "hf_", f"{_AN}{{30,40}}"),
    ("hugging face token", "api_org_", f"{_AN}{{30,40}}"),
    ("cerebras key", "csk-", f"{_AN}{{40,60}}"),
    ("fireworks key", "fw_", f"{_AN}{{22,40}}"),
    ("together key", "tgp_v1_", f"{_W}{{30,60}}"),
    ("jina key", "jina_", f"{_AN}{{40,80}}"),
    ("firecrawl key", "fc-", f"{_HEX}{{32}}"),
    ("e2b key", "e2b_", f"{_HEX}{{40}}"),
    ("anyscale key", "esecret_", f"{_AN}{{20,40}}"),
    ("runpod key", "rpa_", "[A-Z0-9]{30,60}"),
    ("elevenlabs key", "sk_", f"{_HEX}{{48}}"),
    ("weights & biases key", "wandb_v1_", f"{_W}{{40,120}}"),
    ("google token", "ya29.", f"{_W}{{20,}}"),
    ("google client secret", "GOCSPX-", f"{_W}{{20,40}}"),
    ("google key", "AIza", f"{_W}{{35}}"),
    ("google refresh token", "1//0", f"{_W}{{35,120}}"),
    ("aws key id", "AKIA", "[0-9A-Z]{16}"),
    ("aws key id", "ASIA", "[0-9A-Z]{16}"),
    ("aws key id", "ABIA", "[0-9A-Z]{16}"),
    ("aws bedrock key", "ABSK", "[A-Za-z0-9+/]{80,}={0,2}"),
    ("aws bedrock key", "bedrock-api-key-", "[A-Za-z0-9+/]{40,}={0,2}"),
    ("databricks token", "dapi", f"{_HEX}{{32}}(?:-\\d)?"),
    ("alibaba key id", "LTAI", f"{_AN}{{16,24}}"),
    ("tencent key id", "AKID", f"{_AN}{{32}}"),
    ("yandex key", "AQVN", f"{_W}{{35,38}}"),
    ("github token", "ghp_", f"{_AN}{{20,255}}"),
    ("github token", "gho_", f"{_AN}{{20,255}}"),
    ("github token", "ghu_", f"{_AN}{{20,255}}"),
    ("github token", "ghs_", f"{_AN}{{20,255}}"),
    ("github token", "ghr_", f"{_AN}{{20,255}}"),
    ("github token", "github_pat_", r"\w{20,255}"),
    *(("gitlab token", f"gl{kind}-", f"{_W}{{16,}}") for kind in (
        "pat", "dt", "rt", "cbt", "ptt", "ft", "soat", "imt", "agent", "oas")),
    ("bitbucket token", "ATBB", f"{_AN}{{32}}"),
    ("atlassian token", "ATATT3", "[A-Za-z0-9_=-]{60,}"),
    ("atlassian token", "ATCTT3", "[A-Za-z0-9_=-]{60,}"),
    ("slack token", "xapp-", f"{_W}{{20,}}"),
    ("slack token", "xoxe.", f"{_W}{{20,}}"),
    ("sendgrid key", "SG.", r"[\w-]{16,32}\.[\w-]{16,64}"),
    ("mailgun key", "key-", f"{_HEX}{{32}}"),
    ("brevo key", "xkeysib-", f"{_HEX}{{64}}-{_AN}{{16}}"),
    ("brevo key", "xsmtpsib-", f"{_HEX}{{64}}-{_AN}{{16}}"),
    ("stripe key", "sk_live_", f"{_AN}{{16,}}"),
    ("stripe key", "rk_live_", f"{_AN}{{16,}}"),
    ("stripe key", "sk_test_", f"{_AN}{{16,}}"),
    ("stripe key", "rk_test_", f"{_AN}{{16,}}"),
    ("webhook secret", "whsec_", "[A-Za-z0-9+/=_-]{24,}"),
    ("square token", "EAAA", f"{_W}{{60}}"),
    ("square token", "sq0atp-", f"{_W}{{22}}"),
    ("square token", "sq0csp-", f"{_W}{{43}}"),
    *(("shopify token", f"shp{kind}_", "[0-9a-fA-F]{32}") for kind in ("at", "ca", "pa", "ss")),
    *(("plaid token", f"access-{env}-", _UUID) for env in (
        "sandbox", "development", "production")),
    ("paypal token", "access_token$production$", f"{_AN}{{16}}\\${_AN}{{32}}"),
    ("razorpay key", "rzp_live_", f"{_AN}{{14}}"),
    ("flutterwave key", "FLWSECK", r"(?:_TEST|_LIVE)?-[0-9a-fA-F]{12,32}(?:-X)?"),
    ("npm token", "npm_", f"{_AN}{{36}}"),
    ("pypi token", "pypi-AgE", f"{_W}{{40,}}"),
    ("docker token", "dckr_pat_", f"{_W}{{20,40}}"),
    ("docker token", "dckr_oat_", f"{_W}{{20,40}}"),
    ("rubygems key", "rubygems_", f"{_HEX}{{48}}"),
    ("nuget key", "oy2", "[a-z0-9]{43}"),
    ("clojars token", "CLOJARS_", f"{_AN}{{60}}"),
    ("artifactory key", "AKCp", f"{_AN}{{60,80}}"),
    *(("digitalocean token", f"do{kind}_v1_", f"{_HEX}{{64}}") for kind in "opr"),
    *(("vault token", f"hv{kind}.", f"{_W}{{20,}}") for kind in "sbr"),
    ("terraform token", ".atlasv1.", r"[\w-]{50,}"),
    ("heroku key", "HRKU-", f"{_W}{{30,70}}"),
    ("fly token", "fo1_", f"{_W}{{40,50}}"),
    ("fly token", "fm2_", "[A-Za-z0-9+/=_-]{60,}"),
    ("netlify token", "nfp_", f"{_AN}{{36}}"),
    ("vercel token", "vercel_blob_rw_", f"{_W}{{30,80}}"),
    ("vercel token", "vcp_", f"{_AN}{{50,60}}"),
    ("render key", "rnd_", f"{_AN}{{28,40}}"),
    ("supabase token", "sbp_", f"{_HEX}{{40}}"),
    ("supabase key", "sb_secret_", f"{_W}{{20,60}}"),
    ("planetscale token", "pscale_tkn_", r"[\w.=-]{32,64}"),
    ("planetscale password", "pscale_pw_", r"[\w.=-]{32,64}"),
    ("neon key", "napi_", f"{_AN}{{60,70}}"),
    ("linear key", "lin_api_", f"{_AN}{{32,48}}"),
    ("linear token", "lin_oauth_", f"{_HEX}{{64}}"),
    ("notion token", "ntn_", f"{_AN}{{40,50}}"),
    ("figma token", "figd_", f"{_W}{{36,60}}"),
    *(("doppler token", f"dp.{kind}.", r"[\w.-]{36,64}") for kind in (
        "pt", "st", "ct", "sa", "scim", "audit")),
    ("grafana token", "glsa_", f"{_AN}{{32}}_[0-9a-fA-F]{{8}}"),
    ("grafana token", "glc_", "[A-Za-z0-9+/=]{32,}"),
    ("new relic key", "NRAK-", "[A-Z0-9]{27}"),
    ("new relic key", "NRII-", f"{_W}{{32}}"),
    ("sentry token", "sntrys_", "[A-Za-z0-9+/=_-]{40,}"),
    ("sentry token", "sntryu_", f"{_HEX}{{64}}"),
    ("posthog key", "phx_", f"{_AN}{{40,60}}"),
    ("honeycomb key", "hcaik_", "[a-z0-9_]{40,64}"),
    ("dynatrace token", "dt0c01.", r"[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    ("age secret key", "AGE-SECRET-KEY-1", "[A-Z0-9]{58}"),
    ("1password token", "ops_eyJ", "[A-Za-z0-9+/=_-]{60,}"),
    ("pulumi token", "pul-", f"{_HEX}{{40}}"),
    ("postman key", "PMAK-", f"{_HEX}{{24}}-{_HEX}{{34}}"),
    ("facebook token", "EAACEdEose0cBA", f"{_AN}{{20,}}"),
    ("hubspot token", "pat-na1-", _UUID),
    ("hubspot token", "pat-eu1-", _UUID),
    ("contentful token", "CFPAT-", f"{_W}{{40,50}}"),
    *(("tailscale key", f"tskey-{kind}-", r"[A-Za-z0-9]{8,24}(?:CNTRL)?-[A-Za-z0-9]{16,48}")
      for kind in ("auth", "api", "client", "scim", "webhook")),
    ("duffel token", "duffel_live_", f"{_W}{{40,50}}"),
    ("duffel token", "duffel_test_", f"{_W}{{40,50}}"),
    ("easypost key", "EZAK", f"{_AN}{{54}}"),
    ("shippo token", "shippo_live_", f"{_HEX}{{40}}"),
    ("sonarqube token", "sqp_", f"{_HEX}{{40}}"),
    ("sonarqube token", "squ_", f"{_HEX}{{40}}"),
    ("prefect key", "pnu_", f"{_AN}{{36}}"),
    ("prefect key", "pnb_", f"{_AN}{{36}}"),
    ("dbt token", "dbtc_", f"{_W}{{30,60}}"),
    ("dbt token", "dbtu_", f"{_W}{{30,60}}"),
    ("typeform token", "tfp_", r"[\w.=-]{40,60}"),
    ("circleci token", "CCIPAT_", r"\w{40,80}"),
    ("buildkite token", "bkua_", f"{_HEX}{{40}}"),
    ("infracost key", "ico-", f"{_AN}{{32}}"),
    ("launchdarkly key", "sdk-", _UUID),
    ("airtable token", "pat", f"{_AN}{{14}}\\.{_HEX}{{64}}"),
    ("resend key", "re_", f"{_AN}{{8}}_{_AN}{{20,30}}"),
    ("okta token", "SSWS ", f"00{_W}{{40}}"),
    ("lob key", "live_pub_", f"{_HEX}{{31}}"),
    ("adafruit key", "aio_", f"{_AN}{{28}}"),
    ("readme key", "rdme_", "[a-z0-9]{70}"),
    ("scaleway key", "SCW", "[A-Z0-9]{17}"),
]  # fmt: skip

_LOOSE = [
    ("openai key", "sk-proj-", r"[\w-]{20,}"),
    ("openai key", "sk-", r"(?<![A-Za-z0-9]sk-)[\w-]{16,}"),
    ("openai session", "sess-", r"[A-Za-z0-9]{40}"),
    ("voyage key", "pa-", r"[\w-]{40,50}"),
    ("brave key", "BSA", r"[\w-]{24,32}"),
    ("notion token", "secret_", r"[A-Za-z0-9]{40,50}"),
    ("dropbox token", "sl.", r"[\w-]{60,}"),
    ("vault token", "s.", r"(?<!\ws\.)[A-Za-z0-9]{24}(?!\w)"),
    ("mapbox token", "sk.eyJ", r"[\w-]{20,}\.[\w-]{20,}"),
]

_BREAK = r"(?:\s|\\[nr]){1,4}"
_LINE = (
    r"(?:[A-Za-z0-9+/]{20,128}|[A-Za-z0-9+/]{1,64}={1,2}|=[A-Za-z0-9+/]{4}"
    rf"|[A-Za-z0-9+/]{{1,64}}(?={_BREAK}-----END))"
)

# Credentials that are identified by the words around them or by their syntax. Only the group
# `secret` is masked.
_OTHERS = [
    CredentialRule("private key", "private key",  # lines of base64, and no more than those
         r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
         rf"(?:{_BREAK}[A-Z][A-Za-z-]{{2,20}}: [^\n\\]{{0,100}}){{0,4}}{_BREAK}"
         rf"(?P<secret>{_LINE}(?:{_BREAK}{_LINE}){{0,400}})",
         test=_has_random_lines),
    CredentialRule("putty key", "private-lines:",
         r"Private-Lines: \d+(?P<secret>(?:\r?\n[A-Za-z0-9+/=]{4,64}){1,100})"),
    CredentialRule("jwt", "eyj",
         r"(?<![A-Za-z0-9+/_-])eyJ[A-Za-z0-9_-]{8,}\."
         r"(?P<secret>eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{8,})"),
    CredentialRule("slack token", "xox", r"xox[abeoprs]-(?:\d+-)*(?P<tail>[A-Za-z0-9-]{10,})",
         test=_stands_random),
    CredentialRule("slack webhook", "hooks.slack.com",
         r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<secret>[A-Za-z0-9_/+-]{20,})"),
    CredentialRule("discord webhook", "/api/webhooks/",
         r"/api/webhooks/\d{15,20}/(?P<secret>[\w-]{50,90})"),
    CredentialRule("teams webhook", "webhook.office.com",
         r"webhook\.office\.com/webhookb2/(?P<secret>[\w@/-]{60,})"),
    CredentialRule("discord token", ".",
         r"(?<![\w.+/-])[MNO][A-Za-z\d]{23,27}\.[\w-]{6}\.(?P<tail>[\w-]{27,38})(?![\w.-])",
         test=_has_random_ends),
    CredentialRule("telegram token", ":aa", r"(?<![\w.])\d{8,10}:AA[\w-]{33}(?![\w-])"),
    CredentialRule("twilio key", "sk", r"(?<![A-Za-z0-9])SK[0-9a-f]{32}(?![A-Za-z0-9])"),
    CredentialRule("mailchimp key", "-us", r"(?<![A-Za-z0-9])[0-9a-f]{32}-us\d{1,2}(?!\w)"),
    CredentialRule("azure client secret", "q~",
         r"(?<![\w~.-])[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.-]{31,34}(?![\w~-])"),
    CredentialRule("azure signature", "sig=", r"[?&]sig=(?P<secret>[A-Za-z0-9%/+]{30,}=*)"),
    CredentialRule("aws secret", "secret",
         r"secret_?(?:access_?)?key[\\'\"\s:=,]{1,12}(?P<secret>[0-9a-z/+]{40})(?![\w+/=])",
         re.ASCII | re.I, _is_opaque),
    CredentialRule("aws signature", "x-amz-signature",
         r"X-Amz-Signature=(?P<secret>[0-9a-f]{64})", re.I),
    CredentialRule("aws token", "x-amz-security-token",
         r"X-Amz-Security-Token[=:]\s?(?P<secret>[A-Za-z0-9%/+=]{40,})", re.I),
    CredentialRule("bearer token", "bearer",
         r"\bbearer\s{1,3}(?P<secret>[\w.~+/-]{16,}={0,2})", re.ASCII | re.I, _is_opaque),
    CredentialRule("authorization", "authorization",
         r"authorization['\"]?\s{0,2}[:=]\s{0,2}['\"]?(?:[A-Za-z][\w-]{2,20}\s{1,2})?"
         r"(?P<secret>[\w.~+/=:-]{16,})", re.ASCII | re.I, _is_opaque),
    CredentialRule("basic credentials", "basic",
         r"\bbasic\s{1,3}(?P<secret>[0-9a-z+/]{8,}={0,2})", re.ASCII | re.I, _is_pair),
    CredentialRule("cookie", "cookie",
         r"cookie['\"]?\s{0,2}:\s{0,2}['\"]?"
         r"(?P<secret>[\w.-]{1,60}=[^\s;'\"]{1,4000}(?:;\s?[\w.-]{1,60}=[^\s;'\"]{1,4000}){0,40})",
         re.ASCII | re.I, _has_session_id),
    CredentialRule("password", "://",
         r"://[^\s/:@?#'\"<>{}()]{0,80}:(?P<secret>[^\s/?#'\"<>{}()]{3,256})@(?=[\w\[/])",
         test=_is_real_password),
    CredentialRule("password", "curl",
         r"\bcurl\b[^\n|;]{0,400}?\s(?:-u|--user)[\s=]{0,2}['\"]?[^\s:'\"]{1,80}:"
         r"(?P<secret>[^\s'\"]{3,200})", test=_is_real_password),
    CredentialRule("password", "sshpass", r"\bsshpass\s+-p\s{0,2}['\"]?(?P<secret>[^\s'\"]{3,200})",
         test=_is_real_password),
    CredentialRule("password", "_authtoken",
         r"_authToken=(?P<secret>[^\s'\"]{10,200})", test=_is_real_password),
    CredentialRule("password", "machine",
         r"\bmachine\s+\S{1,100}\s+login\s+\S{1,100}\s+password\s+(?P<secret>\S{3,200})",
         test=_is_real_password),
    CredentialRule("password hash", "$6$", r"\$6\$[\w./]{4,16}\$(?P<secret>[\w./]{86})"),
]  # fmt: skip

RULES: tuple[CredentialRule, ...] = (
    *(_token(*entry) for entry in _TOKENS),
    *(_loose(*entry) for entry in _LOOSE),
    *_OTHERS,
)

# The lower-case JSON text of any value that masking might change contains one of these. ``\\u212a``
# is the Kelvin sign, the only character beyond ASCII that `lower` turns into an ASCII letter.
# ``\\u00`` begins the escape of an ASCII character, which no encoder needs and may hide a secret.
HINTS: tuple[str, ...] = tuple(
    dict.fromkeys(("[masked: ", "\\u212a", "\\u00", *NAMES, *(rule.hint for rule in RULES)))
)
