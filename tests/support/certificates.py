"""Certificates for servers of tests: one authority, and a server as it should be, expired, of another host, of nobody.

Made once (`openssl ecparam -name prime256v1`, `openssl x509`), good for a hundred years and for nothing: the keys are
here for everybody to read. Nothing that is installed with the project could make them at run time.
"""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAT+gAwIBAgIUT6t3s2CyqaVyQRn0Egvt0Qs38RQwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOVGVzdCBhdXRob3JpdHkwIBcNMjYxMTI1MjIxNDUyWhgPMjEy
NjExMDEyMjE0NTJaMBkxFzAVBgNVBAMMDlRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEvMTedJfdJxAwHA2OtFGBx5c0VQ8IPcH1g0zYMQpf
1VsA0IGSNQJsApOCnuKangoIDGvDzSJZD6a16jGI9Ch76aNjMGEwHQYDVR0OBBYE
FBmDAjq/KVRlOxb/FadcMosrG7xIMB8GA1UdIwQYMBaAFBmDAjq/KVRlOxb/Fadc
MosrG7xIMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgEGMAoGCCqGSM49
BAMCA0kAMEYCIQC3ZnUZ+pCTS8YTNJOZXdydVgB8nSYVCocqtqMtsnvPJAIhAIis
a78ihkjgTmz8qOK38B0BSl1UmR6QwqjsRZBbnFZ7
-----END CERTIFICATE-----
"""

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgxWg8mSVLaO/JCrfO
2p7xnOgu6TAJqd+b6KSUOFpCO/OhRANCAAR0ysrQqPApjmtWruXaFZSMB+yT6WOv
ZNJd0xrRGaBdZrbH8P2kUrkr8BBLSVVvwRQqWehtL++x3KHDDBbBiv9u
-----END PRIVATE KEY-----
"""
"""Of all servers below."""

GOOD = """\
-----BEGIN CERTIFICATE-----
MIIBrTCCAVKgAwIBAgIFAKIyYhswCgYIKoZIzj0EAwIwGTEXMBUGA1UEAwwOVGVz
dCBhdXRob3JpdHkwIBcNMjYxMTI1MjIxNDUzWhgPMjEyNjExMDEyMjE0NTNaMBYx
FDASBgNVBAMMC3Rlc3Qgc2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
dMrK0KjwKY5rVq7l2hWUjAfsk+ljr2TSXdMa0RmgXWa2x/D9pFK5K/AQS0lVb8EU
KlnobS/vsdyhwwwWwYr/bqOBhzCBhDAPBgNVHREECDAGhwR/AAABMAwGA1UdEwEB
/wQCMAAwDgYDVR0PAQH/BAQDAgeAMBMGA1UdJQQMMAoGCCsGAQUFBwMBMB8GA1Ud
IwQYMBaAFBmDAjq/KVRlOxb/FadcMosrG7xIMB0GA1UdDgQWBBTwgRn2SbkkbK7+
81hkiJps98P+UjAKBggqhkjOPQQDAgNJADBGAiEAipmGfZ23WzQeafrZn2liqvFL
VEjbPEA4XLLoD/hK5G4CIQCtHKQZW5r0i5HfWN2HjN6AwDxYKXyKMVCgTMUhrqYQ
qQ==
-----END CERTIFICATE-----
"""
"""For 127.0.0.1, by the authority."""

EXPIRED = """\
-----BEGIN CERTIFICATE-----
MIIBujCCAV+gAwIBAgIUE29drealUPSqate1WF6CPzPL2+kwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOVGVzdCBhdXRob3JpdHkwHhcNMjAwMTAxMDAwMDAwWhcNMjAw
MjAxMDAwMDAwWjAWMRQwEgYDVQQDDAt0ZXN0IHNlcnZlcjBZMBMGByqGSM49AgEG
CCqGSM49AwEHA0IABHTKytCo8CmOa1au5doVlIwH7JPpY69k0l3TGtEZoF1mtsfw
/aRSuSvwEEtJVW/BFCpZ6G0v77HcocMMFsGK/26jgYcwgYQwDwYDVR0RBAgwBocE
fwAAATAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQEAwIHgDATBgNVHSUEDDAKBggr
BgEFBQcDATAfBgNVHSMEGDAWgBQZgwI6vylUZTsW/xWnXDKLKxu8SDAdBgNVHQ4E
FgQU8IEZ9km5JGyu/vNYZIiabPfD/lIwCgYIKoZIzj0EAwIDSQAwRgIhAPtTPdwQ
rXaXiK+KtGMTv6aQD9/VbdS97bP438ER6HF1AiEAh7w1i8D6fJtXLx7x2SD/TZ4s
p8hdsgA/Xw8zL8KiLSA=
-----END CERTIFICATE-----
"""
"""The same, until February 2020."""

ELSEWHERE = """\
-----BEGIN CERTIFICATE-----
MIIBuTCCAV+gAwIBAgIFAKTo6SgwCgYIKoZIzj0EAwIwGTEXMBUGA1UEAwwOVGVz
dCBhdXRob3JpdHkwIBcNMjYxMTI1MjIxNDUzWhgPMjEyNjExMDEyMjE0NTNaMBYx
FDASBgNVBAMMC3Rlc3Qgc2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
dMrK0KjwKY5rVq7l2hWUjAfsk+ljr2TSXdMa0RmgXWa2x/D9pFK5K/AQS0lVb8EU
KlnobS/vsdyhwwwWwYr/bqOBlDCBkTAcBgNVHREEFTATghFlbHNld2hlcmUuZXhh
bXBsZTAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQEAwIHgDATBgNVHSUEDDAKBggr
BgEFBQcDATAfBgNVHSMEGDAWgBQZgwI6vylUZTsW/xWnXDKLKxu8SDAdBgNVHQ4E
FgQU8IEZ9km5JGyu/vNYZIiabPfD/lIwCgYIKoZIzj0EAwIDSAAwRQIhAPRzdLwY
M1SuM/SxzTizxKITJZ5uJL5mJCDVbwr+04pOAiB7YtT67C0rvFu7F/ESS94waMI1
3OU/5Ius9/9MByb2cw==
-----END CERTIFICATE-----
"""
"""For elsewhere.example, by the authority."""

STRANGER = """\
-----BEGIN CERTIFICATE-----
MIIBrzCCAVWgAwIBAgIFAKk+Ne8wCgYIKoZIzj0EAwIwHDEaMBgGA1UEAwwRQW5v
dGhlciBhdXRob3JpdHkwIBcNMjYxMTI1MjIxNDUzWhgPMjEyNjExMDEyMjE0NTNa
MBYxFDASBgNVBAMMC3Rlc3Qgc2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
QgAEdMrK0KjwKY5rVq7l2hWUjAfsk+ljr2TSXdMa0RmgXWa2x/D9pFK5K/AQS0lV
b8EUKlnobS/vsdyhwwwWwYr/bqOBhzCBhDAPBgNVHREECDAGhwR/AAABMAwGA1Ud
EwEB/wQCMAAwDgYDVR0PAQH/BAQDAgeAMBMGA1UdJQQMMAoGCCsGAQUFBwMBMB8G
A1UdIwQYMBaAFG2g9mugHt0fID53TW79+Ab04nNUMB0GA1UdDgQWBBTwgRn2Sbkk
bK7+81hkiJps98P+UjAKBggqhkjOPQQDAgNIADBFAiBNrMNEbB7eAdDBM9e3oHkH
l4AZnpBJoTlCsO4i3t97CAIhAI65c1IMb8om99z7Wmsq+NrpEXtwx7NZlZgv9KGM
rwLb
-----END CERTIFICATE-----
"""
"""For 127.0.0.1, by an authority that nobody knows."""


def trusting() -> ssl.SSLContext:
    """What a client with this authority uses."""
    return ssl.create_default_context(cadata=AUTHORITY)


def serving(certificate: str, *, latest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> ssl.SSLContext:
    """A server's; latest: the newest protocol that it speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:  # ssl reads a server's certificate only from a file
        path = Path(folder) / "server.pem"
        path.write_text(KEY + certificate)
        context.load_cert_chain(path)
    if latest is not ssl.TLSVersion.MAXIMUM_SUPPORTED:
        context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL does not speak it at all
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is what it is wanted for
            context.minimum_version = context.maximum_version = latest
    return context
