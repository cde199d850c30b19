"""Credentials of all forms that we know of, none of them real: what stands in a text, and the part
that must not be seen. Built from pieces, so that no scanner takes this file for a leak."""

from __future__ import annotations

import json
from base64 import b64encode

AN = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4zB7cDe0FgH2iJk5LmN8oPq1RsT4uVw7XyZ0aBc3DeF6gHi9JkL2mNo5PqR"
LOW = "a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0u1v2w3x4y5z6a7b8c9d0e1f2g3h4i5j6k7l8m9n0"
UP = "A1B2C3D4E5F6G7H8I9J0K1L2M3N4O5P6Q7R8S9T0U1V2W3X4Y5Z6"
HEX = "3f9a1c7be02d84560f9e8d7c6b5a49382716054f3e2d1c0b9a8877665544332f" * 2
UUID = "3f9a1c7b-e02d-4456-8f9e-8d7c6b5a4938"
PW = "hV7-tq2Lx9"  # a password as people have them, with a digit and both cases
BASIC = b64encode(f"admin:{PW}".encode()).decode()


def an(n: int) -> str:
    return (AN * 3)[:n]


def hx(n: int) -> str:
    return HEX[:n]


_VENDORS = {
    "openai": "sk-" + an(48),
    "openai project": "sk-" + "proj-" + an(60),
    "openai service account": "sk-" + "svcacct-" + an(60),
    "openai admin": "sk-" + "admin-" + an(60),
    "anthropic": "sk-" + "ant-api03-" + an(93),
    "anthropic admin": "sk-" + "ant-admin01-" + an(80),
    "openrouter": "sk-" + "or-v1-" + hx(64),
    "deepseek": "sk-" + hx(32),
    "langfuse": "sk-" + "lf-" + UUID,
    "groq": "gsk" + "_" + an(52),
    "xai": "xai" + "-" + an(80),
    "replicate": "r8" + "_" + an(37),
    "perplexity": "pplx" + "-" + an(48),
    "nvidia": "nvapi" + "-" + an(64),
    "pinecone": "pcsk" + "_" + an(70),
    "langsmith": "lsv2" + "_pt_" + hx(32) + "_" + hx(10),
    "tavily": "tvly" + "-" + an(32),
    "tavily dev": "tvly" + "-dev-" + an(32),
    "hugging face": "hf" + "_" + an(34),
    "cerebras": "csk" + "-" + LOW[:48],
    "fireworks": "fw" + "_" + an(24),
    "together": "tgp" + "_v1_" + an(43),
    "jina": "jina" + "_" + an(60),
    "firecrawl": "fc" + "-" + hx(32),
    "e2b": "e2b" + "_" + hx(40),
    "elevenlabs": "sk" + "_" + hx(48),
    "google key": "AI" + "za" + an(35),
    "google token": "ya29" + "." + an(80),
    "google client secret": "GOCSPX" + "-" + an(28),
    "google refresh": "1/" + "/0" + an(60),
    "aws key id": "AK" + "IA" + UP[:16],
    "aws session key id": "AS" + "IA" + UP[:16],
    "aws bedrock": "AB" + "SK" + an(110),
    "azure client secret": "abC" + "8Q~" + an(34),
    "databricks": "dapi" + hx(32),
    "alibaba": "LTAI" + an(20),
    "github": "ghp" + "_" + an(36),
    "github oauth": "gho" + "_" + an(36),
    "github server": "ghs" + "_" + an(36),
    "github fine": "github" + "_pat_" + an(22) + "_" + an(59),
    "gitlab": "glpat" + "-" + an(20),
    "gitlab runner": "glrt" + "-" + an(20),
    "bitbucket": "ATBB" + an(32),
    "atlassian": "ATATT3" + an(180),
    "slack bot": "xoxb" + "-123456789012-1234567890123-" + an(24),
    "slack user": "xoxp" + "-123456789012-123456789012-" + hx(32),
    "slack app": "xapp" + "-1-A0123456789-1234567890123-" + hx(64),
    "slack webhook": "https://hooks.slack.com/services/T0123ABCD/B0123ABCD/" + an(24),
    "discord bot": "MTA" + an(21) + ".GhIjK2." + an(38),
    "discord webhook": "https://discord.com/api/webhooks/123456789012345678/" + an(68),
    "telegram": "1234567890:" + "AA" + an(33),
    "twilio": "SK" + hx(32),
    "sendgrid": "SG" + "." + an(22) + "." + an(43),
    "mailgun": "key" + "-" + hx(32),
    "mailchimp": hx(32) + "-us12",
    "brevo": "xkeysib" + "-" + hx(64) + "-" + an(16),
    "resend": "re" + "_" + an(8) + "_" + an(24),
    "stripe live": "sk" + "_live_" + an(24),
    "stripe test": "sk" + "_test_" + an(24),
    "stripe restricted": "rk" + "_live_" + an(24),
    "stripe webhook": "whsec" + "_" + an(32),
    "square": "sq0atp" + "-" + an(22),
    "shopify": "shpat" + "_" + hx(32),
    "shopify app": "shpss" + "_" + hx(32),
    "plaid": "access-sandbox-" + UUID,
    "razorpay": "rzp" + "_live_" + an(14),
    "npm": "npm" + "_" + an(36),
    "pypi": "pypi" + "-AgEIcHlwaS5vcmc" + an(70),
    "docker": "dckr" + "_pat_" + an(27),
    "rubygems": "rubygems" + "_" + hx(48),
    "nuget": "oy2" + LOW[:43],
    "artifactory": "AKC" + "p" + an(69),
    "digitalocean": "dop" + "_v1_" + hx(64),
    "vault": "hvs" + "." + an(90),
    "vault batch": "hvb" + "." + an(130),
    "terraform": an(14) + "." + "atlasv1" + "." + an(64),
    "heroku": "HRKU" + "-AA" + an(58),
    "fly": "fo1" + "_" + an(43),
    "netlify": "nfp" + "_" + an(36),
    "supabase": "sbp" + "_" + hx(40),
    "supabase secret": "sb" + "_secret_" + an(31),
    "planetscale": "pscale" + "_tkn_" + an(43),
    "linear": "lin" + "_api_" + an(40),
    "notion": "ntn" + "_" + an(46),
    "notion old": "secret" + "_" + an(43),
    "airtable": "pat" + an(14) + "." + hx(64),
    "figma": "figd" + "_" + an(40),
    "doppler": "dp" + ".pt." + an(43),
    "grafana": "glsa" + "_" + an(32) + "_" + hx(8),
    "new relic": "NRAK" + "-" + UP[:27],
    "sentry": "sntrys" + "_" + an(80),
    "posthog": "phx" + "_" + an(43),
    "dynatrace": "dt0c01" + "." + UP[:24] + "." + (UP * 2)[:64],
    "age": "AGE-SECRET-KEY-" + "1" + (UP * 2)[:58],
    "1password": "ops" + "_eyJ" + an(200),
    "pulumi": "pul" + "-" + hx(40),
    "postman": "PMAK" + "-" + hx(24) + "-" + hx(34),
    "hubspot": "pat-na1-" + UUID,
    "contentful": "CFPAT" + "-" + an(43),
    "tailscale": "tskey" + "-auth-" + an(17) + "-" + an(32),
    "sonarqube": "sqp" + "_" + hx(40),
    "prefect": "pnu" + "_" + an(36),
    "buildkite": "bkua" + "_" + hx(40),
    "launchdarkly": "sdk" + "-" + UUID,
    "okta": "Authorization: SSWS " + "00" + an(40),
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0In0." + an(43),
}

# Forms: what tells them is a name, a header, an option or a grammar.
_FORMS = {
    "pem": ("-----BEGIN RSA " + "PRIVATE KEY-----\n" + an(64) + "\n" + an(40)
            + "\n-----END RSA PRIVATE KEY-----", an(40)),
    "openssh": ("-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + an(70) + "\n" + an(33), an(33)),
    "pem in json": (
        json.dumps({"k": "-----BEGIN " + "PRIVATE KEY-----\n" + an(64) + "\n"}), an(64)),
    "pgp": ("-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\nVersion: 1\n\n" + an(64) + "\n", an(64)),
    "dsn": (f"postgresql://user:{PW}@db.example/app", PW),
    "redis": (f"redis://:{PW}@cache:6379/0", PW),
    "mongo": (f"mongodb+srv://app:{PW}@cluster0.example.net/x", PW),
    "amqp": (f"amqp://guest2:{PW}@mq:5672//", PW),
    "https": (f"git clone https://oauth2:{PW}@git.example/x.git", PW),
    "keywords": (f"host=db user=me password={PW} dbname=x", PW),
    "ado": (f"Server=db;User Id=sa;Password={PW};Timeout=3", PW),
    "call": (f'connect(user="app", password="{PW}")', PW),
    "env": (f"DB_PASSWORD={PW}", PW),
    "env PWD": (f"MYSQL_PWD={PW}", PW),
    "export": (f"export API_TOKEN={an(32)}", an(32)),
    "yaml": (f"db:\n  password: {PW}\n  port: 5432", PW),
    "yaml quoted": (f"token: '{an(24)}'", an(24)),
    "toml": (f'api_key = "{an(24)}"', an(24)),
    "ini": (f"secret_key={an(40)}", an(40)),
    "json": (f'{{"password": "{PW}", "port": 1}}', PW),
    "json in prose": (f'I sent {{"user": "x", "password": "{PW}"}} to it', PW),
    "json camel": (json.dumps({"apiKey": an(24)}), an(24)),
    "json in json": (json.dumps({"arguments": json.dumps({"client_secret": PW})}), PW),
    "curl user": (f"curl -u admin:{PW} https://api.example/v1", PW),
    "curl long user": (f"curl -s --user 'admin:{PW}' https://api.example/v1", PW),
    "curl header": (f"curl -H 'X-Api-Key: {an(32)}' https://api.example", an(32)),
    "query api_key": (f"https://api.example/v1?x=1&api_key={an(32)}", an(32)),
    "query token": (f"https://api.example/v1?token={an(24)}&x=1", an(24)),
    "query sig": (f"https://a.blob.core.windows.net/c?sv=2022&sig={an(43)}%3D", an(43)),
    "account key": (f"AccountName=a;AccountKey={an(86)}==;EndpointSuffix=x", an(86)),
    "shared access key": (f"Endpoint=sb://x/;SharedAccessKey={an(43)}=", an(43)),
    "aws secret": (f"aws_secret_access_key = {an(40)}", an(40)),
    "aws json": (f'{{"SecretAccessKey": "{an(40)}"}}', an(40)),
    "aws session": (f"X-Amz-Security-Token: {an(100)}", an(100)),
    "bearer": (f"Authorization: Bearer {an(32)}", an(32)),
    "token header": (f"Authorization: Token {an(40)}", an(40)),
    "basic": (f"Authorization: Basic {BASIC}", BASIC),
    "x-auth-token": (f"X-Auth-Token: {an(32)}", an(32)),
    "cookie": (f"Cookie: theme=dark; session={an(32)}", an(32)),
    "set-cookie": (f"Set-Cookie: id={an(32)}; Path=/; HttpOnly", an(32)),
    "npmrc": (f"//registry.example/:_authToken={an(36)}", an(36)),
    "netrc": (f"machine api.example login me password {PW}", PW),
    "cli flag": (f"deploy --token {an(24)} --region eu", an(24)),
    "cli password": (f"mysql --password={PW} -h db", PW),
    "sshpass": (f"sshpass -p {PW} ssh host", PW),
    "glued to a slash": (f"https://x.example/hook/ghp_{an(36)}", an(36)),
    "glued to a letter": (f"keyghp_{an(36)}", an(36)),
    "glued to a plus": (f"a+sk-proj-{an(48)}", an(48)),
}  # fmt: skip

CREDENTIALS: dict[str, tuple[str, str]] = {
    **{name: (text, text[-16:]) for name, text in _VENDORS.items()},
    **_FORMS,
}

# Under a name in a dict, or as a pair of a header: any text is a secret there.
NAMES = (
    "password", "passwd", "pwd", "passphrase", "db_password", "userPassword", "api_key", "apiKey",
    "API-KEY", "x-api-key", "token", "access_token", "refreshToken", "client_secret", "secret",
    "X-Auth-Token", "x-amz-security-token", "AccountKey", "authorization", "Proxy-Authorization",
    "cookie", "Set-Cookie", "secretAccessKey", "private_key", "sessionToken", "id_token", "GH_PAT",
    "webhook_secret", "connectionString", "OPENAI_API_KEY", "SharedAccessKey", "signingKey",
)  # fmt: skip
