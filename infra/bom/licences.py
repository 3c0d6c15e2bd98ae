"""The licence that an installed package declares, as an SPDX expression where its metadata is clear.

Asked in this order: the field License-Expression (always SPDX), a License field that is clear, the classifiers, any
other short License field. Nothing is guessed from licence texts: what is not clear keeps its own words, and what says
nothing is `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message

LONGEST_NAME = 80

# What packages write -> SPDX. "BSD" alone may be two or three clauses, so it stays as it is.
SPDX = {
    "0bsd": "0BSD",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "isc": "ISC",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "lgpl-2.0-or-later": "LGPL-2.0-or-later",
    "mit": "MIT",
    "mit licence": "MIT",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl-2.0": "MPL-2.0",
    "psf-2.0": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
    "the unlicense (unlicense)": "Unlicense",
    "unlicense": "Unlicense",
}
IDENTIFIERS = frozenset(SPDX.values())
EXPRESSION = re.compile(r"\(?[A-Za-z0-9.+-]+\)?(?: (?:AND|OR|WITH) \(?[A-Za-z0-9.+-]+\)?)+")
# Classifiers that name a family and no licence.
VAGUE = frozenset({"OSI Approved", "DFSG approved", "Other/Proprietary License"})
# Licences whose terms reach what is shipped together with the package; somebody should look at these.
COPYLEFT = re.compile(
    r"\b(A?GPL|LGPL|MPL|EPL|CDDL|EUPL|CC-BY-SA)\b|General Public License|Lesser General", re.IGNORECASE
)


@dataclass(frozen=True)
class Licence:
    """text: an SPDX identifier or expression when `spdx`, else the package's own words; empty when it has none."""

    text: str = ""
    spdx: bool = False

    @property
    def known(self) -> bool:
        return bool(self.text)

    @property
    def copyleft(self) -> bool:
        return bool(COPYLEFT.search(self.text))


def licence_of(metadata: Message) -> Licence:
    """What the metadata of a distribution declares."""
    expression = (metadata.get("License-Expression") or "").strip()
    if expression:
        return Licence(expression, spdx=True)
    field = _one_line(metadata.get("License") or "")
    if (found := _spdx(field)) is not None:
        return found
    named = _classified(metadata.get_all("Classifier") or [])
    translated = [SPDX.get(name.lower()) for name in named]
    if named and all(translated):
        # more than one classifier does not say whether both hold or one may be chosen
        return Licence(translated[0], spdx=True) if len(set(translated)) == 1 else Licence(" / ".join(named))
    return Licence(" / ".join(named) or field)


def _spdx(field: str) -> Licence | None:
    if field.lower() in SPDX:
        return Licence(SPDX[field.lower()], spdx=True)
    if EXPRESSION.fullmatch(field):
        return Licence(field, spdx=True)
    return None


def _one_line(field: str) -> str:
    """The field when it is a name; a whole licence text, or nothing worth the name, is none."""
    field = field.strip()
    return "" if "\n" in field or len(field) > LONGEST_NAME or field.upper() == "UNKNOWN" else field


def _classified(classifiers: Sequence[str]) -> list[str]:
    names = [line.rsplit(" :: ", 1)[-1] for line in classifiers if line.startswith("License ::")]
    return sorted(dict.fromkeys(name for name in names if name not in VAGUE))
