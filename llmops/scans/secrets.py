"""Secrets in text: keys, tokens, passwords, private keys.

The formats are detect-secrets' regular expressions, plus Hugging Face tokens, this platform's API keys, current OpenAI,
Anthropic and Google keys, whole private-key blocks, and passwords written as `password: …`. detect-secrets' entropy and
keyword plugins are not used, because they flag ordinary prose.

The whole match is the secret, not detect-secrets' capture group, which for a GitHub token is only `ghp`.
"""

import re
from functools import cache

_INNER = r"[^\s\"'`<>,;]"  # inside a password
_MIXED = rf"(?={_INNER}*\d)(?={_INNER}*[A-Za-z])"  # a digit and a letter: prose after "password:" has no digit

OWN_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Hugging Face Token", re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}")),
    ("llmops API Key", re.compile(r"\bllmops_[0-9a-f]{8}_[A-Za-z0-9_-]{20,}")),
    ("OpenAI or Anthropic Key", re.compile(r"\bsk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}")),
    ("Google API Key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}")),
    (
        "AWS Secret Key",
        re.compile(r"(?i)\baws.{0,20}?(?:key|secret)\W{1,5}(?-i:(?P<value>[0-9A-Za-z/+]{40}))(?![\w/+])"),
    ),
    (
        "Private Key",
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL),
    ),
    (
        "Password",
        re.compile(
            r"(?i)\b(?:password|passwd|passphrase|pwd|api[ _-]?key|client[ _-]?secret|secret[ _-]?key|"
            r"(?:access|auth|api|bearer)[ _-]?token)\b[\"']?(?:\s*(?::=|=>|=|:)|\s+is:?)\s*[\"'`]?"
            rf"(?P<value>{_MIXED}{_INNER}{{5,}}[^\s\"'`<>,;.!?)])"
        ),
    ),
)

# Cheap pre-filters: without one of these in the case-folded text, the slower patterns cannot match.
_PREFILTERS: dict[str, tuple[str, ...]] = {
    "Hugging Face Token": ("hf_", "api_org_"),
    "llmops API Key": ("llmops_",),
    "OpenAI or Anthropic Key": ("sk-",),
    "Google API Key": ("aiza",),
    "AWS Secret Key": ("aws",),
    "Password": ("pass", "pwd", "key", "secret", "token"),
    "AWS Access Key": ("a3t", "abia", "acca", "akia", "asia", "aws"),
    "Mailchimp Access Key": ("-us",),
    "Slack Token": ("xox", "hooks.slack.com"),
    "Stripe Access Key": ("k_live_",),
}


def find_secrets(text: str) -> list[tuple[int, int, str]]:
    """Return start, end and kind of each secret in `text`, sorted by start. They may overlap."""
    secrets: set[tuple[int, int, str]] = set()
    folded = text.casefold()  # like `re.IGNORECASE`: a long s is an s
    for kind, pattern in _load_patterns():
        if kind in _PREFILTERS and not any(needed in folded for needed in _PREFILTERS[kind]):
            continue
        for match in pattern.finditer(text):
            group = "value" if "value" in pattern.groupindex else 0
            secrets.add((*match.span(group), kind))
    return sorted(secrets)


@cache
def _load_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    from detect_secrets.plugins.aws import AWSKeyDetector
    from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
    from detect_secrets.plugins.basic_auth import BasicAuthDetector
    from detect_secrets.plugins.discord import DiscordBotTokenDetector
    from detect_secrets.plugins.github_token import GitHubTokenDetector
    from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
    from detect_secrets.plugins.jwt import JwtTokenDetector
    from detect_secrets.plugins.mailchimp import MailchimpDetector
    from detect_secrets.plugins.npm import NpmDetector
    from detect_secrets.plugins.openai import OpenAIDetector
    from detect_secrets.plugins.pypi_token import PypiTokenDetector
    from detect_secrets.plugins.sendgrid import SendGridDetector
    from detect_secrets.plugins.slack import SlackDetector
    from detect_secrets.plugins.square_oauth import SquareOAuthDetector
    from detect_secrets.plugins.stripe import StripeDetector
    from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
    from detect_secrets.plugins.twilio import TwilioKeyDetector

    plugins = (
        AWSKeyDetector,
        AzureStorageKeyDetector,
        BasicAuthDetector,
        DiscordBotTokenDetector,
        GitHubTokenDetector,
        GitLabTokenDetector,
        JwtTokenDetector,
        MailchimpDetector,
        NpmDetector,
        OpenAIDetector,
        PypiTokenDetector,
        SendGridDetector,
        SlackDetector,
        SquareOAuthDetector,
        StripeDetector,
        TelegramBotTokenDetector,
        TwilioKeyDetector,
    )
    imported = tuple((str(plugin.secret_type), regex) for plugin in plugins for regex in plugin.denylist)
    return OWN_PATTERNS + imported
