"""URLs without what lets one in: passwords and signatures, which change while the object stays."""

from __future__ import annotations

import re

# What stores and services call them: S3 and its kin, Google, CloudFront, and others.
_SECRET = re.compile(
    r"x-(amz|goog|oss|cos)-.+|q-(sign|ak|key|header|url|signature).*|(aws|oss)?accesskeyid|"
    r"googleaccessid|signature|sig|expires|policy|key-pair-id|([a-z]+[-_])?token|api[-_]?key|"
    r"password|passwd|secret|auth",
    re.IGNORECASE,
)
# Azure's stand beside `sig`; elsewhere names so short may be anything, such as which object.
_BESIDE_SIG = re.compile(r"s[evprst]|spr|sip|srt|sk(oid|tid|[tesv])|s[aud]oid|scid|sdd")
# Of a path with an @ (abfs://container@account/...) only a password before it is one.
_USER = re.compile(
    r"(https?://)[^/?#\s@'\"]*@|([a-z][a-z0-9+.-]*://)[^/?#\s@:'\"]*:[^/?#\s@'\"]*@", re.IGNORECASE
)
_QUERY = re.compile(r"\?([^?#\s'\"<>()]+)")


def unsigned(text: str) -> str:
    """A URL, or a text with URLs in it, without the passwords and signatures of the URLs.

    >>> unsigned("https://me:pw@example.org/a.tar?versionId=3&X-Amz-Signature=12ab")
    'https://example.org/a.tar?versionId=3'
    """
    if "://" not in text:
        return text
    return _QUERY.sub(_without_secrets, _USER.sub(lambda found: found[1] or found[2], text))


def _without_secrets(query: re.Match[str]) -> str:
    parameters = query[1].split("&")
    names = [parameter.partition("=")[0] for parameter in parameters]
    kept = [
        parameter
        for parameter, name in zip(parameters, names, strict=True)
        if not (
            _SECRET.fullmatch(name)
            or ("sig" in map(str.lower, names) and _BESIDE_SIG.fullmatch(name))
        )
    ]
    return f"?{'&'.join(kept)}" if kept else ""
